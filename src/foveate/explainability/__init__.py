"""Heat maps of the evidence for predictions, and tests of their faithfulness."""
