"""The pages in the browser: a door like the others, over the same engine. Importing it imports no gradio."""
