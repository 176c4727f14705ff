"""What tests of this package, and of providers written elsewhere, are made of. Public; imports anything."""
