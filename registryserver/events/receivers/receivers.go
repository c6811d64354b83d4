// Package receivers is the configuration of those who are told of events: what is in it, what is wrong with it, and which
// events each of them wants. Operator and server share it.
package receivers

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/chartroom-dev/chartroom/registryserver/glob"
)

// Event is what kind of thing has happened.
type Event string

// The events.
const (
	// PackageCreated: a version was pushed under a tag that was not there.
	PackageCreated Event = "package.created"
	// PackageCopied: the same, by a copy of what is elsewhere.
	PackageCopied Event = "package.copied"
	// PackageDeleted: a tag was removed, by somebody or by the retention policy.
	PackageDeleted Event = "package.deleted"
	// TagMoved: a tag stands for another content than before.
	TagMoved Event = "tag.moved"
	// StorageFailed: what somebody asked for could not be done because of the storage.
	StorageFailed Event = "registry.storage_failed"
	// QuotaReached: a push was refused because of the quota.
	QuotaReached Event = "registry.quota"
	// Ping is sent because somebody asked for it. Every receiver gets its own.
	Ping Event = "ping"
)

// Packages are the events that are sent where nothing else is asked for.
func Packages() []Event { return []Event{PackageCreated, PackageCopied, PackageDeleted, TagMoved} }

// All are the events that can be asked for.
func All() []Event { return append(Packages(), StorageFailed, QuotaReached) }

// Registry reports events that are about no package.
func (e Event) Registry() bool { return e == StorageFailed || e == QuotaReached || e == Ping }

// Format is how an event is written.
type Format string

// The formats.
const (
	// Buildkite is the payload of Buildkite's package registries, with more in it.
	Buildkite Format = "buildkite"
	// Harbor is the payload of Harbor, as Argo CD and Flux read it.
	Harbor Format = "harbor"
	// Flux is CloudEvents, signed as Flux reads it.
	Flux Format = "flux"
	// CloudEvents is CloudEvents 1.0, structured, in JSON.
	CloudEvents Format = "cloudevents"
)

// Dialect is how a signature, an HMAC with SHA-256 (RFC 2104), is written.
type Dialect string

// The dialects.
const (
	// DialectBuildkite is "X-<prefix>-Signature: timestamp=<seconds>,signature=<hex>", over "<seconds>.<body>".
	DialectBuildkite Dialect = "buildkite"
	// DialectGeneric is "X-Signature: sha256=<hex>", over the body.
	DialectGeneric Dialect = "generic"
	// DialectGitHub is "X-Hub-Signature-256: sha256=<hex>", over the body.
	DialectGitHub Dialect = "github"
)

// Values of Filter.Prereleases.
const (
	PrereleasesInclude = "Include"
	PrereleasesExclude = "Exclude"
	PrereleasesOnly    = "Only"
)

// Receiver is who is told.
type Receiver struct {
	// Name tells receivers apart: lower-case letters, digits and dashes.
	Name string `json:"name" yaml:"name"`
	// URL is where events are posted to. http is for networks that were allowed alone.
	URL string `json:"url" yaml:"url"`
	// Format is buildkite, harbor, flux or cloudevents.
	Format Format `json:"format" yaml:"format"`
	// HeaderPrefix is what headers of the format buildkite have behind "X-". Default: Buildkite.
	HeaderPrefix string `json:"headerPrefix,omitempty" yaml:"headerPrefix"`
	// Events are those that are wanted. Default: those of Packages.
	Events []Event `json:"events,omitempty" yaml:"events"`
	// Filter says which packages they are about.
	Filter Filter `json:"filter,omitzero" yaml:"filter"`
	// Auth is how the receiver knows who sends.
	Auth Auth `json:"auth,omitzero" yaml:"auth"`
	// TLS is how the sender knows who receives.
	TLS TLS `json:"tls,omitzero" yaml:"tls"`
	// Disabled stops all but what was asked for by hand.
	Disabled bool `json:"disabled,omitempty" yaml:"disabled"`
}

// Filter chooses packages.
type Filter struct {
	// Charts are globs of charts' paths below the registry. Default: all.
	Charts []string `json:"charts,omitempty" yaml:"charts"`
	// Prereleases says what becomes of versions such as 1.0.0-rc.1: Include, Exclude, or Only, in any case. Default: Include.
	Prereleases string `json:"prereleases,omitempty" yaml:"prereleases"`
}

// Auth has at most one member. Files are read again for each event.
type Auth struct {
	// Header sends a secret as it is.
	Header *Header `json:"header,omitempty" yaml:"header"`
	// HMAC signs what is sent with a secret.
	HMAC *HMAC `json:"hmac,omitempty" yaml:"hmac"`
	// ServiceAccountToken sends a token of Kubernetes, as a Bearer token (RFC 6750).
	ServiceAccountToken *Token `json:"serviceAccountToken,omitempty" yaml:"serviceAccountToken"`
}

// Header is a header with a secret in it.
type Header struct {
	// Name of the header. Default: Authorization.
	Name string `json:"name,omitempty" yaml:"name"`
	// SecretFile has all of the value, for example "Bearer …".
	SecretFile string `json:"secretFile" yaml:"secretFile"`
}

// HMAC is a signature.
type HMAC struct {
	// Dialect is buildkite, generic or github. Default: buildkite with the format buildkite, generic with others.
	Dialect Dialect `json:"dialect,omitempty" yaml:"dialect"`
	// SecretFile has the key.
	SecretFile string `json:"secretFile" yaml:"secretFile"`
}

// Token is a token in a file.
type Token struct {
	// File has the token.
	File string `json:"file" yaml:"file"`
}

// TLS is how a receiver's certificate is verified.
type TLS struct {
	// CAFile has the authorities, in PEM, of which one signed the certificate. It is read again for each event. Default:
	// the system's.
	CAFile string `json:"caFile,omitempty" yaml:"caFile"`
	// InsecureSkipVerify takes any certificate, so that whoever is on the way reads and changes what is sent.
	InsecureSkipVerify bool `json:"insecureSkipVerify,omitempty" yaml:"insecureSkipVerify"`
}

// Bounds of a configuration.
const (
	// MaxReceivers is how many receivers there may be.
	MaxReceivers = 16
	maxNameBytes = 63
	maxURLBytes  = 2048
	maxGlobs     = 32
	maxFileBytes = 4096
	maxHeader    = 64
)

// SignedIn is the dialect of the receiver's signatures, with its default.
func (r Receiver) SignedIn() Dialect {
	switch {
	case r.Auth.HMAC != nil && r.Auth.HMAC.Dialect != "":
		return r.Auth.HMAC.Dialect
	case r.Format == Buildkite:
		return DialectBuildkite
	}
	return DialectGeneric
}

// Prefix is HeaderPrefix, with its default.
func (r Receiver) Prefix() string {
	if r.HeaderPrefix == "" {
		return "Buildkite"
	}
	return r.HeaderPrefix
}

// Secured reports whether the address is one of https.
func (r Receiver) Secured() bool { return strings.HasPrefix(r.URL, "https://") }

// Wants reports whether the receiver is to be told of an event. chart and version are empty where it is about no package.
func (r Receiver) Wants(e Event, chart, version string) bool {
	asked := r.Events
	if len(asked) == 0 {
		asked = Packages()
	}
	switch {
	case r.Disabled || !slices.Contains(asked, e):
		return false
	case e.Registry():
		return true
	}
	if len(r.Filter.Charts) > 0 && !slices.ContainsFunc(r.Filter.Charts, func(g string) bool { return glob.Match(g, chart) }) {
		return false
	}
	parsed, err := semver.StrictNewVersion(version)
	pre := err == nil && parsed.Prerelease() != ""
	switch {
	case strings.EqualFold(r.Filter.Prereleases, PrereleasesExclude):
		return !pre
	case strings.EqualFold(r.Filter.Prereleases, PrereleasesOnly):
		return pre
	}
	return true
}

// Fingerprint changes with the configuration.
func (r Receiver) Fingerprint() string {
	content, err := json.Marshal(r)
	if err != nil {
		panic(err) // Strings and booleans always encode.
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:16])
}

// Validate says what is wrong, each error with the field, as in "[0].url: …". There is none for what can be used.
func Validate(all []Receiver) (problems []error) {
	if len(all) > MaxReceivers {
		return []error{fmt.Errorf(": has %d receivers: write at most %d", len(all), MaxReceivers)}
	}
	seen := map[string]bool{}
	for i, r := range all {
		v := validation{refuse: func(field, format string, args ...any) {
			problems = append(problems, fmt.Errorf("[%d].%s: %w", i, field, fmt.Errorf(format, args...)))
		}}
		v.receiver(r)
		if seen[r.Name] {
			v.refuse("name", "%q is another receiver's, too: choose another", r.Name)
		}
		seen[r.Name] = true
	}
	return problems
}

// validation tells refuse what is wrong.
type validation struct {
	refuse func(field, format string, args ...any)
}

func (v validation) receiver(r Receiver) {
	if !isName(r.Name) {
		v.refuse("name", "%.80q is not a name: use up to %d lower-case letters and digits, with dashes between them", r.Name, maxNameBytes)
	}
	if err := checkURL(r.URL); err != nil {
		v.refuse("url", "%w", err)
	}
	switch r.Format {
	case Buildkite, Flux, CloudEvents:
	case Harbor:
		if slices.ContainsFunc(r.Events, Event.Registry) {
			v.refuse("events", "the format harbor has no events of the registry, only those of packages and tags: choose another format")
		}
	default:
		v.refuse("format", "%.40q is none of buildkite, harbor, flux and cloudevents", r.Format)
	}
	switch {
	case r.HeaderPrefix == "":
	case r.Format != Buildkite:
		v.refuse("headerPrefix", "is for the format buildkite alone: remove it")
	case !isHeader(r.HeaderPrefix):
		v.refuse("headerPrefix", "%.80q is not part of a header's name: use letters, digits and dashes, for example Buildkite", r.HeaderPrefix)
	}
	for i, e := range r.Events {
		if !slices.Contains(All(), e) {
			v.refuse("events", "%.40q is none of those that there are: %s", e, listed(All()))
		}
		if slices.Contains(r.Events[:i], e) {
			v.refuse("events", "%q is there twice", e)
		}
	}
	v.filter(r.Filter)
	v.auth(r)
	v.file("tls.caFile", r.TLS.CAFile, false)
	switch {
	case r.TLS.CAFile != "" && r.TLS.InsecureSkipVerify:
		v.refuse("tls", "caFile is of no use with insecureSkipVerify: write one of them")
	case r.TLS != (TLS{}) && !r.Secured():
		v.refuse("tls", "is for addresses that begin with https:// alone")
	}
}

func (v validation) filter(f Filter) {
	if len(f.Charts) > maxGlobs {
		v.refuse("filter.charts", "has %d globs: write at most %d", len(f.Charts), maxGlobs)
	}
	for _, g := range f.Charts {
		if err := glob.ValidateChart(g); err != nil {
			v.refuse("filter.charts", "%w", err)
		}
	}
	if p := f.Prereleases; p != "" && !slices.ContainsFunc([]string{PrereleasesInclude, PrereleasesExclude, PrereleasesOnly}, func(s string) bool { return strings.EqualFold(s, p) }) {
		v.refuse("filter.prereleases", "%.40q is none of %s, %s and %s", p, PrereleasesInclude, PrereleasesExclude, PrereleasesOnly)
	}
}

func (v validation) auth(r Receiver) {
	members := 0
	if h := r.Auth.Header; h != nil {
		members++
		if h.Name != "" && !isHeader(h.Name) {
			v.refuse("auth.header.name", "%.80q is not a header's name: use letters, digits and dashes", h.Name)
		}
		if slices.Contains(ownHeaders, textproto.CanonicalMIMEHeaderKey(h.Name)) {
			v.refuse("auth.header.name", "%s is the sender's own: choose another", h.Name)
		}
		v.file("auth.header.secretFile", h.SecretFile, true)
	}
	if h := r.Auth.HMAC; h != nil {
		members++
		switch d := h.Dialect; {
		case d != "" && d != DialectBuildkite && d != DialectGeneric && d != DialectGitHub:
			v.refuse("auth.hmac.dialect", "%.40q is none of buildkite, generic and github", d)
		case r.Format == Flux && r.SignedIn() != DialectGeneric:
			v.refuse("auth.hmac.dialect", "must be generic with the format flux, which reads no other")
		}
		v.file("auth.hmac.secretFile", h.SecretFile, true)
	}
	if t := r.Auth.ServiceAccountToken; t != nil {
		members++
		v.file("auth.serviceAccountToken.file", t.File, true)
	}
	if members > 1 {
		v.refuse("auth", "has %d members, and can have one: header, hmac or serviceAccountToken", members)
	}
}

func (v validation) file(field, name string, needed bool) {
	switch {
	case name == "" && needed:
		v.refuse(field, "is missing")
	case len(name) > maxFileBytes || strings.ContainsRune(name, 0):
		v.refuse(field, "is not the name of a file")
	}
}

// ownHeaders cannot be those of a secret.
var ownHeaders = []string{
	"Host", "Content-Type", "Content-Length", "Content-Encoding", "Transfer-Encoding", "Connection", "Upgrade", "Te", "Trailer", "Expect",
	"Keep-Alive", "Proxy-Connection", "User-Agent",
}

func checkURL(text string) error {
	if len(text) > maxURLBytes {
		return fmt.Errorf("has %d characters: write at most %d", len(text), maxURLBytes)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Opaque != "":
		// Not repeated here, nor below: there may be a password in it.
		return errors.New("is not an address such as https://example.com/hook")
	case u.User != nil:
		return errors.New("has a user or password in it, which would be shown: use auth.header")
	case u.Fragment != "" || strings.Contains(text, "#"):
		return errors.New("has a fragment, which is never sent: remove it")
	case strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' }):
		return errors.New("has a character that must be written in percent-encoding")
	}
	return nil
}

func isName(s string) bool {
	return isHeader(s) && len(s) <= maxNameBytes && s == strings.ToLower(s)
}

func isHeader(s string) bool {
	return s != "" && len(s) <= maxHeader && s[0] != '-' && s[len(s)-1] != '-' && strings.IndexFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-'
	}) < 0
}

func listed(events []Event) string {
	var names []string
	for _, e := range events {
		names = append(names, string(e))
	}
	return strings.Join(names, ", ")
}
