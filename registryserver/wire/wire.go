// Package wire holds the documents that the operator and the registry pods exchange: their types, their canonical
// bytes and the names both sides must agree on. It decides nothing.
//
// Each document carries a version. A pod reports the versions that it knows in [About]; a document of another version
// is refused and the last good one stays in force.
package wire

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// AccessVersion is the version of an access snapshot that has tokens alone, and AccessVersionPolicies that of one that has
// policies too. Both are written and read: what the older one can say is said in it, so that pods of an older program go
// on.
const (
	AccessVersion         = 1
	AccessVersionPolicies = 2
)

// AccessVersions are those that this program reads.
func AccessVersions() []int { return []int{AccessVersion, AccessVersionPolicies} }

// MaxAccessBytes bounds an encoded access snapshot. Kubernetes refuses a Secret above 1 MiB; 2,000 tokens of ordinary
// size stay below this.
const MaxAccessBytes = 1000 << 10

// OperatorURI is the subject alternative name (a URI, RFC 5280 section 4.2.1.6) that the operator's client certificate
// carries and that the admin port of a pod insists on.
const OperatorURI = "spiffe://chartroom.dev/operator"

// Paths of the admin port.
const (
	// PathAbout answers GET with [About].
	PathAbout = "/admin/v1/about"
	// PathAccess answers PUT of an access snapshot with [AccessState]: 200 when the snapshot, or an equal one, is in
	// force; 409 when a higher revision is; 422 when the document cannot be read or is of an unknown version.
	// On 409 and 422 the body still is the AccessState that is in force.
	PathAccess = "/admin/v1/access"
	// PathUses answers GET with [Uses].
	PathUses = "/admin/v1/uses"
	// PathPurge answers POST by beginning, or going on with, the deletion of everything that the registry stores; GET tells
	// how far it is. Both answer 200 with [PurgeState]. Only a pod that was started to delete does so; one that serves
	// answers 409.
	PathPurge = "/admin/v1/purge"
)

// AdminServerName returns the DNS name in the certificate of the admin port of one registry's pods. It never resolves:
// the operator dials pod addresses and verifies this name, so that a pod of one registry cannot answer for another.
func AdminServerName(namespace, name string) string {
	return name + "." + namespace + ".admin.chartroom.dev"
}

// Visibility says who may read without credentials.
type Visibility string

const (
	// Private admits nobody without credentials.
	Private Visibility = "Private"
	// Public admits anonymous reads.
	Public Visibility = "Public"
)

// Scope is one right on the charts of a registry. Scopes are independent of each other: writing does not include reading.
type Scope string

// The scopes of a registry.
const (
	ReadPackages   Scope = "read_packages"
	WritePackages  Scope = "write_packages"
	DeletePackages Scope = "delete_packages"
)

// Scopes lists every scope, in the order in which they are documented.
func Scopes() []Scope { return []Scope{ReadPackages, WritePackages, DeletePackages} }

// Token is one registry token as the server needs it: everything but the secret.
type Token struct {
	// ID is the public part of the token, by which logs name it.
	ID string `json:"id"`
	// SHA256 is the SHA-256 of the token's secret part, in lower-case hexadecimal.
	SHA256 string `json:"sha256"`
	// Name says whose token it is, for logs: namespace/name of the RegistryToken, or a word chosen on the command line.
	Name string `json:"name,omitempty"`
	// Scopes are what the token may do. Never empty.
	Scopes []Scope `json:"scopes"`
	// Charts are globs over the chart's path below the registry; "*" matches any run of characters, "/" included.
	// Never empty.
	Charts []string `json:"charts"`
	// ExpiresAt is the instant from which the token is refused, in whole seconds UTC. Nil: it does not expire.
	ExpiresAt *time.Time `json:"expiresAt,omitempty"`
}

// Policy is one OIDC policy: what holders of which issuers' tokens may do.
type Policy struct {
	// Name says whose policy it is, for logs: namespace/name of the OIDCPolicy, or a word of who wrote it by hand.
	Name string `json:"name,omitempty"`
	// Statements are in the language of package access/policy, as encoding/json reads them with UseNumber. Their order
	// counts.
	Statements []any `json:"statements"`
}

// Equal reports whether two policies are the same.
func (p Policy) Equal(other Policy) bool {
	return p.Name == other.Name && bytes.Equal(encode(p.Statements), encode(other.Statements))
}

// Issuer is an issuer of tokens with its keys.
type Issuer struct {
	// Issuer is its address, as in the claim iss.
	Issuer string `json:"issuer"`
	// JWKS are its keys (RFC 7517 section 5), as one string.
	JWKS string `json:"jwks"`
}

// Access is the access snapshot of one registry: who may do what, whole. It replaces the one before it.
type Access struct {
	// Version is [AccessVersion], or [AccessVersionPolicies] where there are Policies.
	Version int `json:"version"`
	// Revision grows with every change and never goes backwards. The first is 1.
	Revision uint64 `json:"revision"`
	// Digest is [Access.ContentDigest], so that a damaged document is recognised. A document written by hand may leave it out.
	Digest string `json:"digest,omitempty"`
	// Registry is organization/slug of the registry that the snapshot is for; a pod of another registry refuses it.
	// Empty in a file used by one server alone.
	Registry string `json:"registry,omitempty"`
	// Visibility is Private where nothing is said.
	Visibility Visibility `json:"visibility,omitempty"`
	// Tokens are sorted by ID, then SHA256, then Name.
	Tokens []Token `json:"tokens"`
	// Policies are sorted by Name, then by their statements.
	Policies []Policy `json:"policies,omitempty"`
	// Kubernetes is what "iss: kubernetes" stands for in them, as the operator read it from the API server. Where it is
	// missing, such statements match nothing.
	Kubernetes *Issuer `json:"kubernetes,omitempty"`
}

// version is the lowest that can say what the snapshot says.
func (a Access) version() int {
	if len(a.Policies) > 0 || a.Kubernetes != nil {
		return AccessVersionPolicies
	}
	return AccessVersion
}

// ContentDigest returns "sha256:" and the SHA-256 of the canonical bytes of everything but Revision and Digest: two
// snapshots with the same content digest decide alike.
func (a Access) ContentDigest() string {
	a.Version, a.Revision, a.Digest = a.version(), 0, ""
	sum := sha256.Sum256(a.marshal())
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Encode returns the canonical bytes of the snapshot, with its digest filled in and its lists sorted. Equal snapshots
// have equal bytes.
func (a Access) Encode() []byte {
	a.Version = a.version()
	a.Digest = a.ContentDigest()
	return append(a.marshal(), '\n')
}

func (a Access) marshal() []byte {
	if a.Visibility == "" {
		a.Visibility = Private
	}
	tokens := make([]Token, 0, len(a.Tokens))
	for _, t := range a.Tokens {
		t.Scopes = slices.Sorted(slices.Values(t.Scopes))
		t.Charts = slices.Sorted(slices.Values(t.Charts))
		if t.ExpiresAt != nil {
			at := inYears0To9999(t.ExpiresAt.UTC().Truncate(time.Second))
			t.ExpiresAt = &at
		}
		tokens = append(tokens, t)
	}
	slices.SortFunc(tokens, func(a, b Token) int {
		return cmp.Or(strings.Compare(a.ID, b.ID), strings.Compare(a.SHA256, b.SHA256), strings.Compare(a.Name, b.Name))
	})
	a.Tokens = tokens
	a.Policies = slices.SortedFunc(slices.Values(a.Policies), func(a, b Policy) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), bytes.Compare(encode(a.Statements), encode(b.Statements)))
	})
	return encode(a)
}

// encode writes the members of maps in the order of their names.
func encode(value any) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic(err) // Strings, numbers, times, and lists and maps of them always encode.
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

// inYears0To9999 moves an instant into the years that RFC 3339 can write.
func inYears0To9999(at time.Time) time.Time {
	first := time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	last := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	switch {
	case at.Before(first):
		return first
	case at.After(last):
		return last
	}
	return at
}

// DecodeAccess reads an access snapshot. Unknown and repeated fields, an unknown version, a digest that does not match,
// trailing data and more than [MaxAccessBytes] are errors. It does not judge whether the tokens make sense: access.Compile does.
func DecodeAccess(data []byte) (Access, error) {
	var a Access
	if len(data) > MaxAccessBytes {
		return a, fmt.Errorf("the access snapshot has %d bytes, more than the %d allowed", len(data), MaxAccessBytes)
	}
	var version struct {
		Version int `json:"version"`
	}
	// Trailing data is an error here already.
	if err := json.Unmarshal(data, &version); err != nil {
		return a, fmt.Errorf("the access snapshot is not JSON: %w", err)
	}
	if !slices.Contains(AccessVersions(), version.Version) {
		return a, fmt.Errorf("the access snapshot is of version %d; this program knows the versions %d and %d", version.Version, AccessVersion, AccessVersionPolicies)
	}
	if err := refuseRepeatedFields(json.NewDecoder(bytes.NewReader(data)), 0, false); err != nil {
		return a, fmt.Errorf("reading the access snapshot: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	decoder.UseNumber()
	if err := decoder.Decode(&a); err != nil {
		return a, fmt.Errorf("reading the access snapshot: %w", err)
	}
	if a.version() > a.Version {
		return a, fmt.Errorf("the access snapshot is of version %d, which has no policies: write version %d", a.Version, a.version())
	}
	if a.Digest != "" && a.Digest != a.ContentDigest() {
		return a, fmt.Errorf("the access snapshot says digest %s, but its content has %s: it is damaged, or was edited by hand and should have no digest then", a.Digest, a.ContentDigest())
	}
	return a, nil
}

// Bounds of an access snapshot's form, well above what its fields need.
const (
	maxDepth  = 8
	maxFields = 64
)

// refuseRepeatedFields reads one JSON value and refuses objects that have a field twice, of which encoding/json would
// silently take the last: two readers of such a document could see two different ones. Fields that differ in case only
// are the same to it, too, but not within statements, where they are names of claims.
func refuseRepeatedFields(decoder *json.Decoder, depth int, statements bool) error {
	if depth > maxDepth {
		return fmt.Errorf("it is nested more than %d deep", maxDepth)
	}
	opening, err := decoder.Token()
	if err != nil {
		return err
	}
	delimiter, compound := opening.(json.Delim)
	if !compound {
		return nil
	}
	var fields []string
	for decoder.More() {
		within := statements
		if delimiter == '{' {
			token, err := decoder.Token()
			if err != nil {
				return err
			}
			field := token.(string) // The decoder lets nothing else be a field's name.
			if slices.ContainsFunc(fields, func(f string) bool { return f == field || !statements && strings.EqualFold(f, field) }) {
				return fmt.Errorf("it has the field %.40q twice in one object", field)
			}
			if fields = append(fields, field); len(fields) > maxFields {
				return fmt.Errorf("it has an object with more than %d fields", maxFields)
			}
			within = statements || strings.EqualFold(field, "statements")
		}
		if err := refuseRepeatedFields(decoder, depth+1, within); err != nil {
			return err
		}
	}
	_, err = decoder.Token()
	return err
}

// AccessState says which access snapshot a pod enforces.
type AccessState struct {
	// Revision of the snapshot in force; 0 before the first.
	Revision uint64 `json:"revision"`
	// Digest is the content digest of the snapshot in force.
	Digest string `json:"digest,omitempty"`
	// Problem says why the newest document seen was not taken, in one sentence; empty when it was.
	Problem string `json:"problem,omitempty"`
}

// About is what a pod says of itself on the admin port.
type About struct {
	// Program is the version of the registry server.
	Program string `json:"program"`
	// Registry is organization/slug.
	Registry string `json:"registry"`
	// AccessVersions are the versions of the access snapshot that the pod reads.
	AccessVersions []int `json:"accessVersions"`
	// Access is the snapshot in force.
	Access AccessState `json:"access"`
	// Uses is Uses.Count: who has asked for [PathUses] need not ask again before this grows.
	Uses uint64 `json:"uses,omitempty"`
	// Issuers are those that its policies name and that are asked for their keys, sorted by their addresses: as many as a
	// snapshot may name.
	Issuers []IssuerState `json:"issuers,omitempty"`
	// Storage is how the pod finds its storage.
	Storage StorageState `json:"storage"`
	// Usage is what the registry stores, over all of its pods; nil where it has no quota, so that nobody counts it.
	Usage *UsageState `json:"usage,omitempty"`
	// Retention is what became of the retention policy; nil where there is none, or nothing is known yet.
	Retention *RetentionState `json:"retention,omitempty"`
	// Garbage is what the pod's garbage collection has done.
	Garbage GarbageState `json:"garbage"`
}

// IssuerState is what a pod knows of an issuer. One that policies name with different keys or authorities is there once
// for each.
type IssuerState struct {
	// Source tells apart where keys come from: the fingerprint of an oidc.Source. Empty from pods that do not say it.
	Source string `json:"source,omitempty"`
	// Issuer is its address.
	Issuer string `json:"issuer"`
	// Keys is how many keys tokens are verified with now.
	Keys int `json:"keys"`
	// Refreshed is when they were fetched; nil where there are none yet.
	Refreshed *time.Time `json:"refreshed,omitempty"`
	// Problem says why they could not be fetched the last time, in one sentence; empty when they could.
	Problem string `json:"problem,omitempty"`
}

// Kinds of storage.
const (
	StorageFilesystem = "filesystem"
	StorageS3         = "s3"
)

// StorageState is what a pod says of its storage.
type StorageState struct {
	// Kind is [StorageFilesystem] or [StorageS3].
	Kind string `json:"kind"`
	// SingleWriter is true where the storage cannot write conditionally, so that more than one pod would lose pushes.
	SingleWriter bool `json:"singleWriter,omitempty"`
	// Problem says why the storage cannot be read or written to, in one sentence; empty when it can.
	Problem string `json:"problem,omitempty"`
}

// GarbageState is what a pod's garbage collection has done since the pod began.
type GarbageState struct {
	// LastSweep is when the pod had last gone through all charts; nil for never. Of several pods, one does so.
	LastSweep *time.Time `json:"lastSweep,omitempty"`
	// FreedObjects and FreedBytes are what the pod has deleted for good.
	FreedObjects int64 `json:"freedObjects"`
	FreedBytes   int64 `json:"freedBytes"`
	// WaitingBytes are in the trash, as far as the pod has seen.
	WaitingBytes int64 `json:"waitingBytes"`
	// ChartsDone and ChartsTotal tell how far a sweep is that is under way; both are 0 when none is.
	ChartsDone  int `json:"chartsDone,omitempty"`
	ChartsTotal int `json:"chartsTotal,omitempty"`
	// Problem says what went wrong last, in one sentence; empty when all went well since.
	Problem string `json:"problem,omitempty"`
}

// Phases of a purge.
const (
	PurgeIdle    = "Idle"
	PurgeRunning = "Running"
	PurgeDone    = "Done"
	PurgeFailed  = "Failed"
)

// PurgeState says how far the deletion of everything is.
type PurgeState struct {
	// Phase is one of the above. A failed purge goes on with the next POST.
	Phase string `json:"phase"`
	// Deleted counts the objects that this pod deleted.
	Deleted int64 `json:"deleted"`
	// Problem says why it failed, in one sentence.
	Problem string `json:"problem,omitempty"`
}
