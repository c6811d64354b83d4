package access

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access/oidc"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	// pollInterval is how often File is looked at. It is read rather than watched: a mounted Secret changes by a swap of
	// symbolic links, and some file systems tell nobody of changes.
	pollInterval = time.Second
	// stateFile is the name of the last pushed snapshot in StateDir.
	stateFile = "access.json"
	// maxProblem bounds AccessState.Problem.
	maxProblem = 500
	// maxIssuerProblem bounds IssuerState.Problem, of which a pod has as many as issuers.
	maxIssuerProblem = 300
)

// Where a snapshot came from, as Changed is told.
const (
	sourceFile  = "file"
	sourcePush  = "push"
	sourceState = "state"
)

// Enforcer holds the snapshot in force. All methods may be called from many goroutines.
type Enforcer struct {
	options  EnforcerOptions
	interval time.Duration
	current  atomic.Pointer[inForce]
	pushed   chan struct{}
	keys     *oidc.Keys
	uses     atomic.Uint64

	// mu is held while a snapshot is taken; judging needs only current.
	mu sync.Mutex
	// seen identifies what File held when it was last looked at.
	seen [sha256.Size]byte
	// kept says which snapshot is in StateDir.
	kept wire.AccessState
}

// inForce is replaced whole, so that a policy and what is said of it always belong together.
type inForce struct {
	policy *Policy
	state  wire.AccessState
	logins *logins
}

// EnforcerOptions configure an Enforcer.
type EnforcerOptions struct {
	// Registry is organization/slug: a snapshot for another registry is refused. A snapshot that names none is taken.
	Registry string
	// File is the path of the snapshot that is the floor: a file, or a file in a mounted Secret folder. It is read at
	// the start and again whenever it changes. For a server alone, the file is the truth: with StateDir empty, a
	// changed file is taken whatever its revision, unless it cannot be read, or is of an unknown version.
	File string
	// StateDir keeps the last pushed snapshot for the next start. Empty: nothing is kept, and pushes are refused.
	// When set, in force is the highest revision of memory, StateDir and File, and it never goes backwards.
	StateDir string
	// Visibility overrides the snapshot's when not empty. Anything but Public is private.
	Visibility wire.Visibility
	// Audience is the registry's own address, https://HOST/ORGANIZATION/REGISTRY, which OIDC tokens must be for.
	Audience string
	// AllowedNetworks may be dialled to ask issuers for their keys, although they are not public.
	AllowedNetworks []netip.Prefix
	// SessionKeys returns the keys that sign session tokens, 32 bytes each: the first signs, all verify. Nil: there are
	// no session tokens.
	SessionKeys func() [][]byte
	// Log is told which issuers cannot be asked for their keys; nil means nowhere.
	Log *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Changed, when not nil, is called after each attempt to take a snapshot, with where it came from ("file", "push"
	// or "state"), the state after it, and why the snapshot was not taken, which is nil when it was; one call at a
	// time. For logs and metrics; it must not call Push.
	Changed func(source string, s wire.AccessState, problem error)
}

// NewEnforcer reads File and StateDir. A missing or unreadable snapshot is not an error: until there is one, nobody is
// admitted, and State().Problem says why.
func NewEnforcer(o EnforcerOptions) *Enforcer {
	if o.Now == nil {
		o.Now = time.Now
	}
	e := &Enforcer{options: o, interval: pollInterval, pushed: make(chan struct{})}
	e.keys = oidc.NewKeys(oidc.Options{AllowedNetworks: o.AllowedNetworks, Now: o.Now, Log: o.Log})
	e.current.Store(&inForce{policy: &Policy{}, logins: new(logins), state: wire.AccessState{Problem: "there is no access snapshot yet: nobody is admitted"}})
	e.mu.Lock()
	defer e.mu.Unlock()
	if o.StateDir != "" {
		e.takeState()
	}
	if o.File != "" {
		e.takeFile()
	}
	return e
}

// Watch takes changes of File, and looks for the keys of issuers before tokens need them, until ctx ends. It returns nil
// then, and asks no issuer any more.
func (e *Enforcer) Watch(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { _ = e.keys.Run(ctx) }) // It returns nothing else.
	ticker := time.NewTicker(e.interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if e.options.File != "" {
				e.mu.Lock()
				e.takeFile()
				e.mu.Unlock()
			}
		}
	}
}

// Push takes a snapshot that the operator sent. It returns the state in force afterwards. Errors: ErrOlder,
// ErrRefused, or that it could not be kept. Nil means that a snapshot of this revision and digest is in force and kept
// for the next start.
func (e *Enforcer) Push(document []byte) (wire.AccessState, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.push(document)
	if err == nil && !isClosed(e.pushed) {
		close(e.pushed)
	}
	// An older document is not the newest seen, so it is no problem of the one in force.
	if !errors.Is(err, ErrOlder) {
		e.report(err)
	}
	e.changed(sourcePush, err)
	return e.State(), err
}

func (e *Enforcer) push(document []byte) error {
	if e.options.StateDir == "" {
		return fmt.Errorf("%w: this server takes its access from a file alone", ErrRefused)
	}
	next, err := e.read(document)
	if err != nil {
		return err
	}
	if next.state.Revision == 0 {
		return fmt.Errorf("%w: its revision is 0; the first is 1", ErrRefused)
	}
	now := e.State()
	if next.state.Revision < now.Revision {
		return fmt.Errorf("%w: revision %d, and this is %d", ErrOlder, now.Revision, next.state.Revision)
	}
	if next.state.Revision == now.Revision && next.state.Digest != now.Digest {
		return fmt.Errorf("%w: another one of the same revision, %d", ErrOlder, now.Revision)
	}
	// On disk first: what was confirmed once must hold after a restart too.
	if e.kept != next.state {
		if err := replaceFile(filepath.Join(e.options.StateDir, stateFile), document); err != nil {
			return fmt.Errorf("keeping the access snapshot for the next start: %w", err)
		}
		e.kept = next.state
	}
	e.enforce(next)
	return nil
}

// enforce puts a snapshot in force. Which issuers' keys are looked for follows it.
func (e *Enforcer) enforce(next *inForce) {
	e.keys.Use(next.policy.allSources())
	next.policy.inherit(e.current.Load().policy)
	e.current.Store(next)
}

// takeState takes what an earlier run was pushed.
func (e *Enforcer) takeState() {
	document, err := readBounded(filepath.Join(e.options.StateDir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var next *inForce
	if err == nil {
		next, err = e.read(document)
	}
	if err != nil {
		err = fmt.Errorf("the snapshot kept in %s: %w", e.options.StateDir, err)
		e.report(err)
	} else {
		e.kept = next.state
		e.enforce(next)
	}
	e.changed(sourceState, err)
}

// takeFile looks at File, and takes it when it is not as it was at the last look.
func (e *Enforcer) takeFile() {
	document, err := readBounded(e.options.File)
	seen := sha256.Sum256(document)
	if err != nil {
		seen = sha256.Sum256([]byte(err.Error()))
	}
	if seen == e.seen {
		return
	}
	e.seen = seen
	var next *inForce
	if err == nil {
		next, err = e.read(document)
	}
	if err == nil {
		err = e.floor(next)
	}
	if err != nil {
		var pathError *fs.PathError
		if errors.As(err, &pathError) {
			err = pathError.Err // The path is said already.
		}
		err = fmt.Errorf("the access file %s: %w", e.options.File, err)
	}
	e.report(err)
	e.changed(sourceFile, err)
}

// floor puts what the file holds in force, unless something newer was pushed.
func (e *Enforcer) floor(next *inForce) error {
	now := e.State()
	newer := next.state.Revision > now.Revision || now.Digest == ""
	switch {
	case e.options.StateDir == "" || newer:
		e.enforce(next)
	case next.state.Revision == now.Revision && next.state.Digest != now.Digest:
		return fmt.Errorf("%w: another one of the same revision, %d", ErrOlder, now.Revision)
	}
	return nil
}

// read decodes, checks and compiles a document. All its errors are ErrRefused.
func (e *Enforcer) read(document []byte) (*inForce, error) {
	a, err := wire.DecodeAccess(document)
	if err != nil {
		// It may quote from the document, at any length.
		return nil, fmt.Errorf("%w: %s", ErrRefused, clip(err.Error(), maxProblem))
	}
	if a.Registry != "" && a.Registry != e.options.Registry {
		return nil, fmt.Errorf("%w: it is for the registry %q, and this is %q", ErrRefused, clip(a.Registry, maxQuotedChart), e.options.Registry)
	}
	policy, err := Compile(a)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	policy.context.Audience = e.options.Audience
	if e.options.Visibility != "" {
		policy.public = e.options.Visibility == wire.Public
	}
	return &inForce{policy: policy, logins: new(logins), state: wire.AccessState{Revision: a.Revision, Digest: a.ContentDigest()}}, nil
}

// report sets the problem of the state in force, or clears it when err is nil.
func (e *Enforcer) report(err error) {
	next := *e.current.Load()
	next.state.Problem = ""
	if err != nil {
		next.state.Problem = clip(err.Error(), maxProblem)
	}
	e.current.Store(&next)
}

func (e *Enforcer) changed(source string, problem error) {
	if e.options.Changed != nil {
		e.options.Changed(source, e.State(), problem)
	}
}

// Pushed is closed at the first successful Push.
func (e *Enforcer) Pushed() <-chan struct{} { return e.pushed }

// State is what is in force now.
func (e *Enforcer) State() wire.AccessState { return e.current.Load().state }

// Issuers says what is known of the issuers that the policies in force name.
func (e *Enforcer) Issuers() []wire.IssuerState {
	var issuers []wire.IssuerState
	for _, s := range e.keys.States() {
		if s.Given {
			continue
		}
		state := wire.IssuerState{Source: s.Source, Issuer: s.Issuer, Keys: s.Keys, Problem: clip(s.Problem, maxIssuerProblem)}
		if !s.Refreshed.IsZero() {
			at := s.Refreshed.UTC().Truncate(time.Second)
			state.Refreshed = &at
		}
		issuers = append(issuers, state)
	}
	slices.SortFunc(issuers, func(a, b wire.IssuerState) int {
		return cmp.Or(cmp.Compare(a.Issuer, b.Issuer), cmp.Compare(a.Source, b.Source))
	})
	return issuers
}

// Identify turns the credentials of a request into an identity, as FromRequest and Authenticate do one after the other.
func (e *Enforcer) Identify(r *http.Request) (Identity, error) {
	now := e.current.Load()
	values := r.Header["Authorization"]
	if len(values) == 1 {
		if id, ok := now.logins.get(values[0]); ok {
			at := e.options.Now()
			if found := now.policy.findAgain(id, at); len(found) > 0 {
				e.use(found, at)
				return id, nil
			}
		}
	}
	credentials, err := FromRequest(r)
	if err != nil {
		return Identity{}, err
	}
	id, err := e.Authenticate(r.Context(), credentials)
	// Of others than registry tokens, more is judged than whether they are in the snapshot.
	if err == nil && !id.Anonymous && id.bearer == nil && id.session == nil {
		now.logins.add(values[0], id)
	}
	return id, err
}

// Authenticate turns credentials into an identity: a registry token, an OIDC token that a policy admits, or a session
// token that was exchanged for one of them. No credentials are anonymous, which is an identity too. Wrong, expired,
// revoked or unreadable ones are ErrUnauthenticated, always the same error; where there is more to say for the log, it is
// a RefusedError. The keys of an issuer may have to be asked for; ctx ends the waiting for them.
func (e *Enforcer) Authenticate(ctx context.Context, c Credentials) (Identity, error) {
	switch {
	case !c.Present:
		return Identity{ID: "anonymous", Anonymous: true}, nil
	case strings.HasPrefix(c.Secret, sessionPrefix):
		return e.authenticateSession(c.Secret, false)
	case !strings.HasPrefix(c.Secret, tokenPrefix) && strings.Contains(c.Secret, "."):
		return e.authenticateOIDC(ctx, c.Secret)
	}
	t, err := ParseToken(c.Secret)
	if err != nil {
		// Without a fingerprint: it may be a password that was typed into the wrong place, and easy to guess.
		return Identity{}, &RefusedError{Reason: "what came is no token of this program: " + err.Error()}
	}
	fingerprint, now, p := t.fingerprint(), e.options.Now(), e.current.Load().policy
	found := p.find(t.ID(), fingerprint, now)
	if len(found) == 0 {
		return Identity{}, &RefusedError{Token: t.String(), Reason: p.whyNot(t.ID(), fingerprint)}
	}
	e.use(found, now)
	return Identity{ID: t.String(), Name: found[0].name, fingerprint: fingerprint}, nil
}

// Authorize judges whether id, as Authenticate returned it for this request, has scope on chart, by the snapshot in
// force now. An anonymous identity may read in a public registry and nothing else.
func (e *Enforcer) Authorize(id Identity, scope wire.Scope, chart string) Decision {
	return e.current.Load().policy.decide(id, chart, e.options.Now(), scope)
}

// AuthorizePush is Authorize for a push, which needs reading too: the reason names whichever scope is missing, and says
// that a push needs both.
func (e *Enforcer) AuthorizePush(id Identity, chart string) Decision {
	return e.current.Load().policy.decide(id, chart, e.options.Now(), wire.ReadPackages, wire.WritePackages)
}

// ReadsAll reports whether id may read every chart that there can be, by the snapshot in force now.
func (e *Enforcer) ReadsAll(id Identity) bool {
	return e.current.Load().policy.hasForAll(id, wire.ReadPackages, e.options.Now())
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
