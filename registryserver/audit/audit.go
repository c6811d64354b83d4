// Package audit keeps the record of decisions: who changed what, who was refused what, and why. It is one line of JSON
// for each, for machines that keep it and for people who search it. There is never a secret in it.
package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/gather"
)

// Action is what somebody does, or asks to do.
type Action string

// The actions.
const (
	// Login asks whether credentials are valid.
	Login Action = "login"
	// List reads names: of charts, tags or referrers.
	List Action = "list"
	// Pull reads a manifest or a blob.
	Pull Action = "pull"
	// Upload stores a blob, or a part of one.
	Upload Action = "upload"
	// Push stores a manifest, and points tags at it.
	Push Action = "push"
	// Delete removes a tag, manifest or blob, or gives an upload up.
	Delete Action = "delete"
	// Exchange turns a token into that of a session.
	Exchange Action = "exchange"
	// Notify has a receiver told of an event because somebody asks for it.
	Notify Action = "notify"
	// Access puts another access snapshot in force.
	Access Action = "access"
	// Other is what the server has no name for.
	Other Action = "other"
)

// reads reports actions that change nothing.
func (a Action) reads() bool { return a == Login || a == List || a == Pull || a == Other }

// Result is how it ended.
type Result string

// The results.
const (
	// Done: it was allowed and carried out.
	Done Result = "done"
	// Refused: the client was told no, and could be told why.
	Refused Result = "refused"
	// Failed: the server could not.
	Failed Result = "failed"
)

func resultOf(status int) Result {
	switch {
	case status >= http.StatusInternalServerError:
		return Failed
	case status >= http.StatusBadRequest:
		return Refused
	}
	return Done
}

// Observation is what the faces of the server find out about a request while they serve it: for its lines in the log and
// here, and for its place in the metrics.
type Observation struct {
	// Route is the pattern of the address, from a small fixed set.
	Route  string
	Action Action
	// Chart is the repository's name behind organization and registry, and Reference the tag or digest in the address; of
	// Notify the receiver, or receiver/event. They are as the client sent them, who may be anybody.
	Chart, Reference string
	// Stored is the digest of what was stored, where the address does not say it.
	Stored string
	// Identity is who it is, as far as it was proved.
	Identity access.Identity
	// Credential tells a credential that was refused from others without giving it away.
	Credential string
	// Reason is why it was refused, or failed: what the client was told, or more where the client must not know.
	Reason string
}

// Record is one line.
type Record struct {
	// Time is when the answer was complete.
	Time time.Time `json:"time"`
	// Registry is "organization/registry".
	Registry string `json:"registry"`
	Action   Action `json:"action"`
	Result   Result `json:"result"`
	// Chart and Reference are Observation's; Digest is Stored.
	Chart     string `json:"chart,omitempty"`
	Reference string `json:"reference,omitempty"`
	Digest    string `json:"digest,omitempty"`
	// Identity is "crt_<id>", "oidc:<issuer>#<subject>", "anonymous", or empty where credentials were not valid: Credential
	// says which, then. What the server does by itself has the name of its part, "retention" or "operator".
	Identity   string `json:"identity,omitempty"`
	Session    string `json:"session,omitempty"`
	Credential string `json:"credential,omitempty"`
	// Policies are the statements that admitted an OIDC token, as in "team-a/ci[0]".
	Policies []string `json:"policies,omitempty"`
	// Source is the client's address.
	Source string `json:"source,omitempty"`
	// Status is that of the answer in HTTP.
	Status int    `json:"status,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Request is the X-Request-Id, which the log has too.
	Request string `json:"request,omitempty"`
}

// Log is the record. Make it with New.
type Log struct {
	registry string
	reads    bool
	counted  func(Action, Result)
	lines    *gather.Lines
}

// New returns the record of a registry, "organization/registry". reads says that what only reads, and is allowed, is in it
// too. counted, when not nil, is called for each record.
func New(out io.Writer, registry string, reads bool, counted func(Action, Result)) *Log {
	return &Log{registry: registry, reads: reads, counted: counted, lines: gather.New(out, func(b []byte, lines int) []byte {
		return appendLine(b, Record{
			Time: time.Now().UTC(), Registry: registry, Action: Other, Result: Failed,
			Reason: fmt.Sprintf("%d records are missing here, because they were not taken fast enough", lines),
		})
	})}
}

// Run writes what is recorded until ctx ends.
func (l *Log) Run(ctx context.Context) { l.lines.Run(ctx) }

// Answered records a request that was answered, if it is of those that are recorded: what changed something or would have,
// and what was refused.
func (l *Log) Answered(o *Observation, source, request string, status int, at time.Time) {
	if !l.records(o, status) {
		return
	}
	r := Record{
		Time: at, Action: o.Action, Result: resultOf(status), Digest: o.Stored,
		Chart: clip(access.Masked(o.Chart), 255), Reference: clip(access.Masked(o.Reference), 160),
		Identity: o.Identity.ID, Session: o.Identity.Session, Credential: o.Credential, Policies: o.Identity.Policies,
		Source: source, Status: status, Request: request,
	}
	if r.Digest == r.Reference {
		r.Digest = ""
	}
	if r.Result != Done {
		r.Reason = access.Masked(o.Reason)
	}
	l.Add(r)
}

func (l *Log) records(o *Observation, status int) bool {
	switch {
	case l.reads:
		return true
	case resultOf(status) == Done && o.Action == Upload:
		return status == http.StatusCreated // Before that, nothing is stored that anybody could see.
	case o.Action.reads():
		return status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusTooManyRequests
	}
	return true
}

// Add records what the server did by itself. It fills in the registry, and the time where there is none.
func (l *Log) Add(r Record) {
	r.Registry = l.registry
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	r.Time = r.Time.UTC()
	if l.counted != nil {
		l.counted(r.Action, r.Result)
	}
	l.lines.Add(func(b []byte) []byte { return appendLine(b, r) })
}

func appendLine(b []byte, r Record) []byte {
	line, err := json.Marshal(r)
	if err != nil {
		panic(err) // Strings and times always encode.
	}
	return append(append(b, line...), '\n')
}

func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
