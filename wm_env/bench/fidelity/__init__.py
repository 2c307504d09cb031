"""How true a world's frames are, by horizon."""
