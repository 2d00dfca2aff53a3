"""Information flow: saliency (Eq 1), its measures (Eqs 2 to 9) and the dynamic trigger (Eqs 11 to 13)."""
