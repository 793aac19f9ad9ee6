"""Part VI, loss and step: from two losses to one step."""
