package registryserver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"go.yaml.in/yaml/v3"
)

// maxConfigBytes bounds a configuration file.
const maxConfigBytes = 1 << 20

// Config is the configuration of a registry server. As a file it is YAML with the names below; unknown names are
// refused. Paths are relative to the working directory. The zero value with defaults applied serves
// 127.0.0.1:5000/default/charts from ./data.
type Config struct {
	// Listen is the address of the public listener, host:port. Default: 127.0.0.1:5000. Port 0 takes any free port.
	Listen string `yaml:"listen"`
	// ExternalURL is the address at which clients reach the registry, for example https://charts.example.com. It
	// appears in messages only. Default: made of Listen and TLS.
	ExternalURL string `yaml:"externalURL"`
	// Organization is the first element of every repository name. Default: default.
	Organization string `yaml:"organization"`
	// Registry is the second element of every repository name. Default: charts.
	Registry string `yaml:"registry"`
	// TLS of the public listener. Without it the listener speaks plain HTTP.
	TLS TLSConfig `yaml:"tls"`
	// Storage is where the content is kept.
	Storage StorageConfig `yaml:"storage"`
	// Access says who may do what.
	Access AccessConfig `yaml:"access"`
	// Keys is a file of keys that sign upload addresses: one key of 32 bytes in each line, in base64. The first signs,
	// all verify, so that keys can be replaced with an overlap. It is read again when it changes, and made with mode
	// 0600 where it is missing. Servers of one registry share the keys. Default: upload.keys in "<storage.dir>.state".
	Keys string `yaml:"keys"`
	// Admin is the listener through which the operator sends access snapshots. Without an address there is none.
	Admin AdminConfig `yaml:"admin"`
	// Metrics is the listener of /metrics, /healthz and /readyz. Without an address there is none.
	Metrics MetricsConfig `yaml:"metrics"`
	// Limits bound what one client may take.
	Limits LimitsConfig `yaml:"limits"`
	// DrainTimeout is how long running pushes and requests may take to finish once the server is told to stop. Default: 30s.
	DrainTimeout Duration `yaml:"drainTimeout"`
	// Log is the form of the log on standard error.
	Log LogConfig `yaml:"log"`
	// Version of the program, which the operator is told. Not part of the file.
	Version string `yaml:"-"`
}

// TLSConfig names a certificate. Both files are read again when they change.
type TLSConfig struct {
	// Cert is a file with the certificate chain in PEM, the server's own first.
	Cert string `yaml:"cert"`
	// Key is a file with the private key in PEM.
	Key string `yaml:"key"`
}

// StorageConfig says where the content is kept.
type StorageConfig struct {
	// Dir is a directory. It is made when it is missing. Default: data.
	Dir string `yaml:"dir"`
}

// AccessConfig says where the access snapshot comes from.
type AccessConfig struct {
	// File is the access snapshot. It is read again when it changes. Default: access.json in "<storage.dir>.state".
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

// unknownField is what the YAML reader says of one; the type is of no use to who wrote the file.
var unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)

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
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return c, fmt.Errorf("reading the configuration %s: %s", path, unknownField.ReplaceAllString(err.Error(), "the field $1 is unknown"))
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return c, fmt.Errorf("the configuration %s holds more than one document", path)
	}
	return c, nil
}

// WithDefaults fills in what is not set.
func (c Config) WithDefaults() Config {
	fill(&c.Listen, "127.0.0.1:5000")
	fill(&c.Organization, "default")
	fill(&c.Registry, "charts")
	fill(&c.Storage.Dir, "data")
	state := stateOf(c.Storage.Dir)
	fill(&c.Access.File, filepath.Join(state, "access.json"))
	fill(&c.Keys, filepath.Join(state, "upload.keys"))
	fill(&c.Log.Format, "text")
	fill(&c.DrainTimeout, Duration(30*time.Second))
	fill(&c.Limits.BlobBytes, 1<<30)
	fill(&c.Limits.ClientTimeout, Duration(30*time.Second))
	fill(&c.Limits.Connections, 2048)
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
	if u, err := url.Parse(c.ExternalURL); c.ExternalURL != "" && (err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "") {
		refuse("externalURL", "%q is not an address such as https://charts.example.com, without a path", c.ExternalURL)
	}
	if _, err := c.visibility(); err != nil {
		refuse("access.visibility", "%w", err)
	}
	admin := []string{c.Admin.Cert, c.Admin.Key, c.Admin.ClientCA, c.Access.StateDir}
	if set := strings.Join(admin, ""); c.Admin.Listen == "" && set != "" {
		refuse("admin.listen", "is missing: admin.cert, admin.key, admin.clientCA and access.stateDir are of no use without it")
	}
	for i, field := range []string{"admin.cert", "admin.key", "admin.clientCA", "access.stateDir"} {
		if c.Admin.Listen != "" && admin[i] == "" {
			refuse(field, "is missing: admin.listen needs it")
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
	if c.Limits.Connections < 0 {
		refuse("limits.connections", "is negative")
	}
	if c.DrainTimeout < 0 {
		refuse("drainTimeout", "is negative")
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

// external is the address for messages. listening is the address of the public listener as it was opened.
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
