"""The API description: one OpenAPI 3.1 document, made from the code that it describes, and a page that shows it."""
