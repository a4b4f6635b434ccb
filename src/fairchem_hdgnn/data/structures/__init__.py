"""Convert structure files to records: names, formats, pairs, tables, labels."""
