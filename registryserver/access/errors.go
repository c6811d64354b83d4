package access

import "errors"

// Errors of the Enforcer.
var (
	// ErrUnauthenticated: the credentials are not valid here, for whatever reason.
	ErrUnauthenticated = errors.New("credentials are not valid for this registry")
	// ErrOlder: a snapshot of a higher revision, or another one of the same revision, is in force.
	ErrOlder = errors.New("a newer access snapshot is in force")
	// ErrRefused: the snapshot cannot be read, is of an unknown version, or is for another registry.
	ErrRefused = errors.New("the access snapshot was refused")
)
