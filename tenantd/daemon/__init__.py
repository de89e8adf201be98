"""Between HTTP and the engine process: the supervisor, live streams, and the service that ties them to the ledger."""
