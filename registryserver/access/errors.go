package access

import (
	"errors"
	"fmt"
)

// Errors of the Enforcer.
var (
	// ErrUnauthenticated: the credentials are not valid here, for whatever reason.
	ErrUnauthenticated = errors.New("credentials are not valid for this registry")
	// ErrOlder: a snapshot of a higher revision, or another one of the same revision, is in force.
	ErrOlder = errors.New("a newer access snapshot is in force")
	// ErrRefused: the snapshot cannot be read, is of an unknown version, or is for another registry.
	ErrRefused = errors.New("the access snapshot was refused")
)

// RefusedError is ErrUnauthenticated, with what the log should say and the client should not be told.
type RefusedError struct {
	// Token tells tokens apart without giving any away: the id of a registry token, or the first digits of the SHA-256
	// of another.
	Token string
	// Reason is why, in a few sentences at most: which rule of which policy did not hold, for one. It never quotes a
	// token.
	Reason string
}

// Error is always the same.
func (e *RefusedError) Error() string { return ErrUnauthenticated.Error() }

// Unwrap returns ErrUnauthenticated.
func (e *RefusedError) Unwrap() error { return ErrUnauthenticated }

// maxReason bounds RefusedError.Reason.
const maxReason = 2000

func refuse(secret, format string, args ...any) error {
	return &RefusedError{Token: fingerprintOf(secret), Reason: clip(fmt.Sprintf(format, args...), maxReason)}
}
