"""Operations on a whole repository: expiration, garbage collection, statistics."""
