"""Programs of many kinds, and the steps that each of them goes through."""
