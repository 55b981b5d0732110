"""Every figure of the three papers, as published beside how it should be."""
