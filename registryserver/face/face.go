// Package face has what the faces of a registry have in common, each of which only translates HTTP: who asks, whether it
// may be served now, whether it is allowed, and in which words it is refused.
package face

import (
	"errors"
	"io"
	"log/slog"
	"net/http"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Load is what a request costs the server.
type Load int

const (
	// Light requests take little, and a time that does not depend on the client.
	Light Load = iota
	// Upload is the receiving of a blob, or of a part of one, at the client's speed.
	Upload
	// Listing reads many objects for one answer.
	Listing
	// FailedLogin is a request with credentials that are not valid.
	FailedLogin
)

// Need is what a request must be allowed.
type Need int

const (
	// Login is satisfied by any valid credentials, and in a public registry by none: what may not be read is left out of the
	// answer.
	Login Need = iota
	// Read is reading one chart.
	Read
	// Push is writing and reading one: clients read on the way of a push.
	Push
	// Delete is deleting of one.
	Delete
)

// Door is where requests come in.
type Door struct {
	// Access decides who may do what.
	Access *access.Enforcer
	// Registry is "organization/registry".
	Registry string
	// Command is what a person runs to log in, in backquotes.
	Command string
	// Admit, when not nil, is asked before a request is served, and whenever credentials turn out not to be valid. It may
	// wait. identity is access.Identity.ID, empty where nobody has logged in. leave, which it returns with true, is called
	// once the request has been served; false tells the client to come back later.
	Admit func(r *http.Request, identity string, l Load) (leave func(), ok bool)
	// Failed, when not nil, is told of each error that a request is answered with. It must be quick.
	Failed func(err error)
	// Logger gets what went wrong in the server itself.
	Logger *slog.Logger
}

// Identify finds out who makes a request. Error: an *Error, to be answered.
func (d *Door) Identify(r *http.Request, seen *audit.Observation) (access.Identity, error) {
	identity, err := d.Access.Identify(r)
	if err == nil {
		seen.Identity = identity
		return identity, nil
	}
	leave, tooMany := d.enter(r, "", FailedLogin)
	if tooMany != nil {
		return access.Identity{}, tooMany
	}
	leave()
	var refused *access.RefusedError
	if errors.As(err, &refused) {
		seen.Credential, seen.Reason = refused.Token, refused.Reason
	}
	return access.Identity{}, d.invalid()
}

// Enter asks whether a request may be served now; leave is called once it has been. Error: an *Error.
func (d *Door) Enter(r *http.Request, identity access.Identity, l Load) (leave func(), err error) {
	if identity.Anonymous {
		return d.enter(r, "", l)
	}
	return d.enter(r, identity.ID, l)
}

func (d *Door) enter(r *http.Request, identity string, l Load) (leave func(), err error) {
	if d.Admit == nil {
		return func() {}, nil
	}
	leave, ok := d.Admit(r, identity, l)
	if !ok {
		return nil, errTooMany
	}
	return leave, nil
}

// Authorize judges by the access snapshot in force now. Error: an *Error.
func (d *Door) Authorize(identity access.Identity, n Need, chart string) error {
	var decision access.Decision
	switch n {
	case Login:
		decision.Allowed = !identity.Anonymous || d.Access.ReadsAll(identity)
	case Read:
		decision = d.Access.Authorize(identity, wire.ReadPackages, chart)
	case Push:
		decision = d.Access.AuthorizePush(identity, chart)
	case Delete:
		decision = d.Access.Authorize(identity, wire.DeletePackages, chart)
	}
	switch {
	case decision.Allowed:
		return nil
	case identity.Anonymous:
		return d.Anonymous()
	}
	return &Error{http.StatusForbidden, "DENIED", decision.Reason}
}

// MayRead says which charts an identity may read, by the access snapshot in force at each call; nil for all.
func (d *Door) MayRead(identity access.Identity) func(chart string) bool {
	if d.Access.ReadsAll(identity) {
		return nil
	}
	return func(chart string) bool { return d.Access.Authorize(identity, wire.ReadPackages, chart).Allowed }
}

// Discreet keeps what is stored in all charts together from who may not read all of them.
func (d *Door) Discreet(identity access.Identity, err error) error {
	var over *quota.Error
	if errors.As(err, &over) && over.Discreet != "" && !d.Access.ReadsAll(identity) {
		return &quota.Error{Reason: over.Discreet}
	}
	return err
}

// Fail notes why a request is not served, and sets the headers that go with it. What it returns is to be written.
func (d *Door) Fail(w http.ResponseWriter, r *http.Request, err error, seen *audit.Observation) *Error {
	if d.Failed != nil {
		d.Failed(err)
	}
	answer := d.Explain(err)
	if seen.Reason == "" {
		seen.Reason = answer.Message
	}
	if answer.Status >= http.StatusInternalServerError {
		d.Logger.ErrorContext(r.Context(), "a request failed in the server", "error", err)
	}
	switch answer.Status {
	case http.StatusUnauthorized:
		// Exactly one challenge: helm, docker, oras, crane, Flux and Argo CD all understand Basic (RFC 7617).
		w.Header().Set("WWW-Authenticate", `Basic realm="chartroom"`)
	case http.StatusTooManyRequests:
		// Shorter than helm's patience, which tries six times.
		w.Header().Set("Retry-After", "2")
	}
	return answer
}

// Send writes the body of an answer whose head is written. It returns when all of it is written.
func (d *Door) Send(w http.ResponseWriter, r *http.Request, content io.Reader) {
	if _, err := io.Copy(w, content); err != nil {
		d.Break(r, err)
	}
}

// Break breaks an answer off whose status is sent: that is the only way left to tell the client that this is not all.
func (d *Door) Break(r *http.Request, err error) {
	if errors.Is(err, bucket.ErrUnavailable) {
		d.Logger.ErrorContext(r.Context(), "storage failed in the middle of an answer", "error", err)
	}
	panic(http.ErrAbortHandler)
}

// Body is the body of a request. What goes wrong with it is told from what goes wrong with the storage.
type Body struct {
	io.ReadCloser
	// Judge, when not nil, judges again when the body has ended: a token that was revoked while its holder was sending slowly
	// stores nothing.
	Judge func() error
}

func (b *Body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		if b.Judge != nil {
			if denied := b.Judge(); denied != nil {
				return n, denied
			}
		}
	} else if err != nil {
		err = &bodyError{err}
	}
	return n, err
}

// bodyError is what went wrong with the body of a request, which is the client's side of it.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "reading what the client sent: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }
