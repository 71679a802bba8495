"""The content-addressed store: stages as folders, found by what determines them."""
