"""The content-addressed store: stages as folders, looked up by what determines them."""
