"""The model bench: any model on any data, split as published, judged over all items, on equal terms."""
