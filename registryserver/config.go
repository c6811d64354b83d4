package registryserver

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
	"github.com/chartroom-dev/chartroom/registryserver/retention"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"go.yaml.in/yaml/v3"
)

// maxLimit bounds limits, for which memory is set aside.
const maxLimit = 1_000_000

// maxConfigBytes bounds a configuration file.
const maxConfigBytes = 1 << 20

// Config is the configuration of a registry server. As a file it is YAML with the names below; unknown names are
// refused. Paths are relative to the working directory. The zero value with defaults applied serves
// 127.0.0.1:5000/default/charts from ./data.
type Config struct {
	// Listen is the address of the public listener, host:port. Default: 127.0.0.1:5000. Port 0 takes any free port.
	Listen string `yaml:"listen"`
	// ExternalURL is the address at which clients reach the registry, for example https://charts.example.com. It
	// appears in messages, and OIDC tokens must be for it: their audience is ExternalURL/Organization/Registry. Default:
	// made of Listen and TLS.
	ExternalURL string `yaml:"externalURL"`
	// Organization is the first element of every repository name. Default: default.
	Organization string `yaml:"organization"`
	// Registry is the second element of every repository name. Default: charts.
	Registry string `yaml:"registry"`
	// About is what the registry is called, for people.
	About AboutConfig `yaml:"about"`
	// TLS of the public listener. Without it the listener speaks plain HTTP.
	TLS TLSConfig `yaml:"tls"`
	// Storage is where the content is kept.
	Storage StorageConfig `yaml:"storage"`
	// Access says who may do what.
	Access AccessConfig `yaml:"access"`
	// AllowEgressCIDRs are networks, as in 10.0.0.0/8, in which issuers of OIDC tokens may be asked for their keys, and
	// receivers told of events, although they are not public. Default: none.
	AllowEgressCIDRs []string `yaml:"allowEgressCIDRs"`
	// Artifacts is what may be pushed, in any case: Any OCI artifact, or Charts and what refers to them. What says that it
	// is a chart must be a sound one either way. Default: Any.
	Artifacts string `yaml:"artifacts"`
	// Tags says which tags may be moved to other content.
	Tags TagsConfig `yaml:"tags"`
	// Retention says which versions are deleted in the course of time. Default: none.
	Retention retention.Policy `yaml:"retention"`
	// Notifications are those who are told of what happens in the registry. Default: nobody.
	Notifications []receivers.Receiver `yaml:"notifications"`
	// GarbageCollection says when what no tag leads to is deleted.
	GarbageCollection GarbageConfig `yaml:"garbageCollection"`
	// Keys is a file of keys that sign upload addresses and session tokens: one key of 32 bytes in each line, in base64. The first
	// signs, all verify, so that keys can be replaced with an overlap. It is read again when it changes, and made with mode
	// 0600 where it is missing. Servers of one registry share the keys. Default: upload.keys in "<storage.dir>.state", or
	// in "<storage.s3.bucket>.state".
	Keys string `yaml:"keys"`
	// Admin is the listener through which the operator sends access snapshots. Without an address there is none.
	Admin AdminConfig `yaml:"admin"`
	// Metrics is the listener of /metrics, /healthz and /readyz. Without an address there is none.
	Metrics MetricsConfig `yaml:"metrics"`
	// TrustedProxies are networks, as in 10.0.0.0/8, of proxies that say in X-Forwarded-For whom they speak for. Nobody
	// else is believed. The address counts in limits and logs. Default: none.
	TrustedProxies []string `yaml:"trustedProxies"`
	// Audit is the record of decisions on standard output.
	Audit AuditConfig `yaml:"audit"`
	// Limits bound what one client may take.
	Limits LimitsConfig `yaml:"limits"`
	// Quota bounds what the registry stores.
	Quota QuotaConfig `yaml:"quota"`
	// DrainTimeout is how long running pushes and requests may take to finish once the server is told to stop. Default: 30s.
	DrainTimeout Duration `yaml:"drainTimeout"`
	// DrainDelay is how long, of DrainTimeout, the server takes new connections after it is told to stop, and after the
	// newest of them, for load balancers that learn late where not to lead clients. It is not ready meanwhile. Default: 0.
	DrainDelay Duration `yaml:"drainDelay"`
	// Log is the form of the log on standard error.
	Log LogConfig `yaml:"log"`
	// Purge makes a server that serves nothing and deletes all that is stored when the operator says so. Not part of the
	// file. It needs Admin.
	Purge bool `yaml:"-"`
	// Version of the program, which the operator is told. Not part of the file.
	Version string `yaml:"-"`
}

// TLSConfig names a certificate. Both files are read again when they change.
type TLSConfig struct {
	// Cert is a file with the certificate chain in PEM, the server's own first.
	Cert string `yaml:"cert"`
	// Key is a file with the private key in PEM.
	Key string `yaml:"key"`
	// Authority is the ConfigMap, as namespace/name, whose entry ca.crt is the authority that signed the certificate, for the
	// lines that pages show. Default: none, as clients trust the certificate as it is.
	Authority string `yaml:"authority"`
}

// StorageConfig says where the content is kept: in Dir or in S3.
type StorageConfig struct {
	// Dir is a directory. It is made when it is missing. Default, where S3 names no bucket: data.
	Dir string `yaml:"dir"`
	// S3 is a bucket of Amazon's or of another server that speaks the same protocol.
	S3 S3Config `yaml:"s3"`
	// Staleness is for how long a version that was served is served again without a look at the storage, so that it takes
	// as long until a server sees that another one has deleted it or moved its tag. What this server changes itself it sees
	// at once. From 0 to 5m. Default: 0, which compares each time: in S3, with one request for a pull.
	Staleness Duration `yaml:"staleness"`
}

// S3Config names a bucket and how to use it.
type S3Config struct {
	// Bucket is the bucket's name. It must exist.
	Bucket string `yaml:"bucket"`
	// Prefix is what all object names begin with, so that several registries may share a bucket; none may begin
	// another's. Default: none.
	Prefix string `yaml:"prefix"`
	// Region of the bucket. Default: us-east-1.
	Region string `yaml:"region"`
	// Endpoint is the server's address, for example https://s3.example.com. Default: Amazon's in the region.
	Endpoint string `yaml:"endpoint"`
	// PathStyle puts the bucket's name into the path of addresses, not into the host name, as most servers other than
	// Amazon's want.
	PathStyle bool `yaml:"pathStyle"`
	// CredentialsDir is a directory with the files accessKeyID, secretAccessKey and, where there is one, sessionToken.
	// They are read again when they change. Default: what the AWS tools would use, from the environment or by the
	// identity of the pod or machine.
	CredentialsDir string `yaml:"credentialsDir"`
	// CAFile is a file with the authorities, in PEM, of which one signed the server's certificate. It is read again when
	// it changes. Default: the system's.
	CAFile string `yaml:"caFile"`
	// Redirect says which downloads of blobs are answered with a redirect to an address in S3 that is valid for 5 minutes:
	// Never, or Large for those of at least 1 MiB, in any case. Clients must reach the server under Endpoint then. Default:
	// Never.
	Redirect string `yaml:"redirect"`
}

// Values of S3Config.Redirect.
const (
	RedirectNever = "Never"
	RedirectLarge = "Large"
)

// AccessConfig says where the access snapshot comes from.
type AccessConfig struct {
	// File is the access snapshot. It is read again when it changes. Default: access.json in "<storage.dir>.state", or in
	// "<storage.s3.bucket>.state".
	File string `yaml:"file"`
	// StateDir is a directory that keeps the last snapshot that the operator sent. It goes with Admin. When it is
	// set, the snapshot of the highest revision is in force and never goes backwards; otherwise File is, whatever its
	// revision.
	StateDir string `yaml:"stateDir"`
	// Visibility, private or public in any case, overrides the one in File when it is set.
	Visibility string `yaml:"visibility"`
}

// AdminConfig is the listener through which the operator sends access snapshots: TLS 1.3 with client certificates.
type AdminConfig struct {
	// Listen is the address, host:port.
	Listen string `yaml:"listen"`
	// Cert and Key are the listener's own certificate chain and private key in PEM.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// ClientCA is a file with the authorities, in PEM, of which one must have signed the client's certificate.
	ClientCA string `yaml:"clientCA"`
}

// MetricsConfig is the listener of metrics and health.
type MetricsConfig struct {
	// Listen is the address, host:port, for example 127.0.0.1:9090.
	Listen string `yaml:"listen"`
}

// GarbageConfig says when what no tag leads to is deleted. Servers of one registry should have the same.
type GarbageConfig struct {
	// Interval is the time between two rounds through all charts, by one of the registry's servers. What is deleted or
	// replaced through a server is looked after a few seconds later, whatever the interval. Default: 1h.
	Interval Duration `yaml:"interval"`
	// Grace is how long new content is left alone that no tag leads to yet: a push must come to its end within it.
	// Default: 24h.
	Grace Duration `yaml:"grace"`
	// Undo is how long what was found to be garbage stays in the trash, from where it comes back when it is pushed or
	// named again. Default: 1h.
	Undo Duration `yaml:"undo"`
}

// LimitsConfig bounds what one client may take.
type LimitsConfig struct {
	// BlobBytes is the greatest size of a blob. Default: 1073741824 (1 GiB).
	BlobBytes int64 `yaml:"blobBytes"`
	// ClientTimeout is how long a client may take to send, or to receive, each 32 KiB of a body. Default: 30s, about
	// 1 KiB/s. There is no limit on the time of a whole request.
	ClientTimeout Duration `yaml:"clientTimeout"`
	// Connections is how many may be open at once. One more ends the one that has waited longest for a request, or is
	// closed where all are busy. Default: 2048, which with TLS and nothing to do take about 70 MiB.
	Connections int `yaml:"connections"`
	// ConnectionsPerClient is how many of them may come from one address, or one IPv6 network (/64). Default: 1024, so that
	// what stands in front of the server, and has all clients behind it, is not held up.
	ConnectionsPerClient int `yaml:"connectionsPerClient"`
	// Uploads is how many blobs, or parts of blobs, are received at once, and UploadsPerClient how many of one token's.
	// One more waits for 5 seconds at most and is then answered 429. Defaults: 512 and 128.
	Uploads          int `yaml:"uploads"`
	UploadsPerClient int `yaml:"uploadsPerClient"`
	// Listings is how many lists of tags, referrers and repositories are made at once, and ListingsPerClient how many of
	// one token, or one address where there is none. One more waits as uploads do. Defaults: 128 and 64.
	Listings          int `yaml:"listings"`
	ListingsPerClient int `yaml:"listingsPerClient"`
	// RequestsPerSecond is how many requests one token, or one address without a token, may make in the long run, and
	// twice as many at once; those above are answered 429. Default: 0, which is no limit.
	RequestsPerSecond int `yaml:"requestsPerSecond"`
	// RegistryRequestsPerSecond is how many requests all clients together may make of this server in the long run, and
	// twice as many at once; those above are answered 429. Default: 0, which is no limit.
	RegistryRequestsPerSecond int `yaml:"registryRequestsPerSecond"`
}

// AuditConfig says what the record of decisions holds, and where it is kept beside standard output.
type AuditConfig struct {
	// Reads records what was read too, and not only what was changed and refused. Default: false.
	Reads bool `yaml:"reads"`
	// File keeps the record in a file. Default: none.
	File string `yaml:"file"`
	// MaxFileMiB is the size from which on the file is put aside under a name with the time, and a new one begun. From 2
	// on. Default: 100.
	MaxFileMiB int `yaml:"maxFileMiB"`
	// KeepFiles is how many files are kept that were put aside. Default: 10.
	KeepFiles int `yaml:"keepFiles"`
}

// LogConfig is the form of the log.
type LogConfig struct {
	// Format is text or json. Default: text.
	Format string `yaml:"format"`
}

// Duration is a time.Duration that is written as in "30s" or "1h30m".
type Duration time.Duration

// UnmarshalText reads a duration in the form of time.ParseDuration.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 30s or 5m", text)
	}
	*d = Duration(parsed)
	return nil
}

// UnmarshalYAML does what UnmarshalText does; its error names the line.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error { return unmarshalScalar(n, d) }

// MarshalText writes it so that UnmarshalText can read it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// unmarshalScalar reads a text from a configuration file, with an error that the YAML reader collects with its own.
func unmarshalScalar(n *yaml.Node, into encoding.TextUnmarshaler) error {
	var text string
	if err := n.Decode(&text); err != nil {
		return err
	}
	if err := into.UnmarshalText([]byte(text)); err != nil {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %v", n.Line, err)}}
	}
	return nil
}

// plainly are what the YAML reader says, and the same for who wrote the file, to whom Go's types mean nothing.
var plainly = []struct {
	said *regexp.Regexp
	say  string
}{
	{regexp.MustCompile(`field (\S+) not found in type \S+`), "the field $1 is unknown"},
	{regexp.MustCompile("cannot unmarshal !!\\w+ (`[^`]*`) into u?int\\d*"), "$1 is not a whole number"},
	{regexp.MustCompile("cannot unmarshal !!\\w+ (`[^`]*`) into bool"), "$1 is neither true nor false"},
	{regexp.MustCompile("cannot unmarshal !!\\w+ (`[^`]*`) into \\[\\]\\S+"), "$1 is not a list"},
}

// LoadConfig reads a configuration file. It applies no defaults and does not judge: New does.
func LoadConfig(path string) (Config, error) {
	var c Config
	f, err := os.Open(path) //nolint:gosec // The file is the one that the person who starts the server names.
	if err != nil {
		return c, fmt.Errorf("reading the configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return c, fmt.Errorf("reading the configuration: %w", err)
	}
	if len(data) > maxConfigBytes {
		return c, fmt.Errorf("the configuration %s has more than %d bytes", path, maxConfigBytes)
	}
	if err := decode(data, &c); err != nil {
		return c, fmt.Errorf("reading the configuration %s: %w", path, err)
	}
	return c, nil
}

// decode reads one YAML document, of fields that are known; an empty one has none of them.
func decode(data []byte, into any) error {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		said := err.Error()
		for _, p := range plainly {
			said = p.said.ReplaceAllString(said, p.say)
		}
		return errors.New(said)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("it holds more than one document")
	}
	return nil
}

// WithDefaults fills in what is not set.
func (c Config) WithDefaults() Config {
	fill(&c.Listen, "127.0.0.1:5000")
	fill(&c.Organization, "default")
	fill(&c.Registry, "charts")
	state := c.Storage.Dir
	if s := &c.Storage.S3; s.Bucket != "" {
		fill(&s.Region, "us-east-1")
		fill(&s.Redirect, RedirectNever)
		state = s.Bucket
	} else if *s == (S3Config{}) {
		fill(&c.Storage.Dir, "data")
		state = c.Storage.Dir
	}
	state = stateOf(state)
	fill(&c.Access.File, filepath.Join(state, "access.json"))
	fill(&c.About.File, filepath.Join(filepath.Dir(c.Access.File), wire.PresentationFile))
	fill(&c.Keys, filepath.Join(state, "upload.keys"))
	fill(&c.Artifacts, string(chart.Any))
	fill(&c.Tags.Policy, immutable)
	fill(&c.Log.Format, "text")
	fill(&c.DrainTimeout, Duration(30*time.Second))
	fill(&c.GarbageCollection.Interval, Duration(time.Hour))
	fill(&c.GarbageCollection.Grace, Duration(24*time.Hour))
	fill(&c.GarbageCollection.Undo, Duration(time.Hour))
	fill(&c.Audit.MaxFileMiB, 100)
	fill(&c.Audit.KeepFiles, 10)
	fill(&c.Limits.BlobBytes, 1<<30)
	fill(&c.Limits.ClientTimeout, Duration(30*time.Second))
	fill(&c.Limits.Connections, 2048)
	fill(&c.Limits.ConnectionsPerClient, 1024)
	fill(&c.Limits.Uploads, 512)
	fill(&c.Limits.UploadsPerClient, 128)
	fill(&c.Limits.Listings, 128)
	fill(&c.Limits.ListingsPerClient, 64)
	return c
}

// stateOf is beside the directory, not in it: all that is in it is the bucket's.
func stateOf(dir string) string {
	dir = filepath.Clean(dir)
	if base := filepath.Base(dir); base == "." || base == ".." {
		if absolute, err := filepath.Abs(dir); err == nil {
			dir = absolute
		}
	}
	return dir + ".state"
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// pathElement is an element of a repository name (OCI Distribution Specification, "Pulling manifests").
var pathElement = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)

// reservedOrganizations are first path elements of the server's own pages and interfaces.
var reservedOrganizations = []string{"v2", "api", "healthz", "readyz", "metrics", "static"}

// Validate says what is wrong with a configuration whose defaults are filled in. Each error names its field.
func (c Config) Validate() error {
	var problems []error
	refuse := func(field, format string, args ...any) {
		problems = append(problems, fmt.Errorf(field+": "+format, args...))
	}
	for _, e := range []struct{ field, value string }{{"organization", c.Organization}, {"registry", c.Registry}} {
		if len(e.value) > 63 || !pathElement.MatchString(e.value) {
			refuse(e.field, "%q is not a name: use up to 63 lower-case letters and digits, with single dots, underscores or dashes between them", e.value)
		}
	}
	if slices.Contains(reservedOrganizations, c.Organization) {
		refuse("organization", "%q is reserved: choose another name than %s", c.Organization, strings.Join(reservedOrganizations, ", "))
	}
	for _, e := range []struct{ field, value string }{
		{"listen", c.Listen}, {"admin.listen", c.Admin.Listen}, {"metrics.listen", c.Metrics.Listen},
	} {
		if _, _, err := net.SplitHostPort(e.value); e.value != "" && err != nil {
			refuse(e.field, "%q is not an address such as 127.0.0.1:5000", e.value)
		}
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		refuse("tls", "cert and key go together: set both or neither")
	}
	if a := c.TLS.Authority; a != "" && !authority.MatchString(a) {
		refuse("tls.authority", "%q is not the name of a ConfigMap such as team-a/charts-ca", a)
	}
	c.About.validate(refuse)
	if u, err := url.Parse(c.ExternalURL); c.ExternalURL != "" && (err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "") {
		refuse("externalURL", "%q is not an address such as https://charts.example.com, without a path", c.ExternalURL)
	}
	if _, err := c.visibility(); err != nil {
		refuse("access.visibility", "%w", err)
	}
	if _, err := networks(c.AllowEgressCIDRs); err != nil {
		refuse("allowEgressCIDRs", "%w", err)
	}
	if _, err := networks(c.TrustedProxies); err != nil {
		refuse("trustedProxies", "%w", err)
	}
	if a := c.Audit; a.MaxFileMiB < 2 || a.MaxFileMiB > maxLimit {
		refuse("audit.maxFileMiB", "is not from 2 to %d", maxLimit)
	}
	if a := c.Audit; a.KeepFiles < 1 || a.KeepFiles > maxLimit {
		refuse("audit.keepFiles", "is not from 1 to %d", maxLimit)
	}
	if _, err := c.artifacts(); err != nil {
		refuse("artifacts", "%w", err)
	}
	c.Tags.validate(refuse)
	c.Quota.validate(refuse)
	problems = append(problems, checkRetention(c.Retention)...)
	problems = append(problems, checkNotifications(c.Notifications)...)
	admin := []string{c.Admin.Cert, c.Admin.Key, c.Admin.ClientCA, c.Access.StateDir}
	if set := strings.Join(admin, ""); c.Admin.Listen == "" && set != "" {
		refuse("admin.listen", "is missing: admin.cert, admin.key, admin.clientCA and access.stateDir are of no use without it")
	}
	for i, field := range []string{"admin.cert", "admin.key", "admin.clientCA", "access.stateDir"} {
		if c.Admin.Listen != "" && admin[i] == "" {
			refuse(field, "is missing: admin.listen needs it")
		}
	}
	problems = append(problems, c.Storage.validate()...)
	for _, e := range []struct {
		field string
		value Duration
	}{
		{"interval", c.GarbageCollection.Interval}, {"grace", c.GarbageCollection.Grace}, {"undo", c.GarbageCollection.Undo},
	} {
		if e.value < Duration(time.Millisecond) {
			refuse("garbageCollection."+e.field, "is shorter than 1ms")
		}
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		refuse("log.format", "%q is neither text nor json", c.Log.Format)
	}
	if c.Limits.BlobBytes < 0 {
		refuse("limits.blobBytes", "is negative")
	}
	if c.Limits.ClientTimeout < Duration(time.Second) {
		refuse("limits.clientTimeout", "is shorter than 1s")
	}
	for field, value := range map[string]int{
		"connections": c.Limits.Connections, "connectionsPerClient": c.Limits.ConnectionsPerClient,
		"uploads": c.Limits.Uploads, "uploadsPerClient": c.Limits.UploadsPerClient,
		"listings": c.Limits.Listings, "listingsPerClient": c.Limits.ListingsPerClient,
		"requestsPerSecond": c.Limits.RequestsPerSecond, "registryRequestsPerSecond": c.Limits.RegistryRequestsPerSecond,
	} {
		if value < 0 || value > maxLimit {
			refuse("limits."+field, "is negative or more than %d", maxLimit)
		}
	}
	if c.DrainTimeout < 0 {
		refuse("drainTimeout", "is negative")
	}
	if c.DrainDelay < 0 || c.DrainDelay > c.DrainTimeout {
		refuse("drainDelay", "must be between 0 and drainTimeout")
	}
	if c.Purge && c.Admin.Listen == "" {
		refuse("purge", "needs admin.listen, on which the operator says when to begin")
	}
	return errors.Join(problems...)
}

func (c Config) visibility() (wire.Visibility, error) {
	switch strings.ToLower(c.Access.Visibility) {
	case "":
		return "", nil
	case "private":
		return wire.Private, nil
	case "public":
		return wire.Public, nil
	}
	return "", fmt.Errorf("%q is neither private nor public", c.Access.Visibility)
}

func networks(texts []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range texts {
		network, err := netip.ParsePrefix(text)
		if err != nil || network != network.Masked() {
			return nil, fmt.Errorf("%q is not a network such as 10.0.0.0/8 or fd00::/8, or 10.1.2.3/32 for one address", text)
		}
		all = append(all, network)
	}
	return all, nil
}

// external is the address for messages and audiences. listening is the address of the public listener as it was opened.
func (c Config) external(listening net.Addr) *url.URL {
	if u, err := url.Parse(c.ExternalURL); err == nil && c.ExternalURL != "" {
		return u
	}
	u := &url.URL{Scheme: "http", Host: listening.String()}
	if c.TLS.Cert != "" {
		u.Scheme = "https"
	}
	host, port, err := net.SplitHostPort(u.Host)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		u.Host = net.JoinHostPort("127.0.0.1", port)
	}
	return u
}
