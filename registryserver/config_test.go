package registryserver_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
	"github.com/chartroom-dev/chartroom/registryserver/retention"
	"github.com/google/go-cmp/cmp"
)

func TestLoadConfig(t *testing.T) {
	got, err := registryserver.LoadConfig("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := registryserver.Config{
		Listen: "0.0.0.0:5000", ExternalURL: "https://charts.example.com", Organization: "acme", Registry: "charts",
		About:            registryserver.AboutConfig{DisplayName: "Charts", Description: "What it is for.", Emoji: "🌻", Color: "#f0ccff", File: "/access/about.json"},
		TLS:              registryserver.TLSConfig{Cert: "tls.crt", Key: "tls.key", Authority: "team-a/charts-ca"},
		Storage:          registryserver.StorageConfig{Dir: "/data"},
		Access:           registryserver.AccessConfig{File: "/access/access.json", StateDir: "/state", Visibility: "Public"},
		Keys:             "/keys/upload.keys",
		AllowEgressCIDRs: []string{"10.0.0.0/8"},
		Admin:            registryserver.AdminConfig{Listen: "0.0.0.0:5443", Cert: "admin.crt", Key: "admin.key", ClientCA: "ca.crt"},
		Metrics:          registryserver.MetricsConfig{Listen: "0.0.0.0:9090"},
		Limits: registryserver.LimitsConfig{BlobBytes: 1 << 20, ClientTimeout: registryserver.Duration(time.Minute), Connections: 100,
			ConnectionsPerClient: 50, Uploads: 40, UploadsPerClient: 20, Listings: 30, ListingsPerClient: 10, RequestsPerSecond: 1000, RegistryRequestsPerSecond: 5000},
		TrustedProxies: []string{"10.1.0.0/16"},
		Audit:          registryserver.AuditConfig{Reads: true, File: "/audit/audit.log", MaxFileMiB: 10, KeepFiles: 3},
		Quota:          registryserver.QuotaConfig{Size: 10 << 30, Charts: 100, Versions: 5000, ChartSize: 10_000_000},
		Log:            registryserver.LogConfig{Format: "json"},
		GarbageCollection: registryserver.GarbageConfig{
			Interval: registryserver.Duration(30 * time.Minute), Grace: registryserver.Duration(12 * time.Hour), Undo: registryserver.Duration(2 * time.Hour),
		},

		Artifacts: "Charts", Tags: registryserver.TagsConfig{Policy: "Mutable", Mutable: []string{"*-dev", "nightly-?"}},
		Retention: retention.Policy{
			DryRun: true, Delay: retention.Duration(2 * time.Hour), KeepPulledWithin: retention.Duration(720 * time.Hour),
			Rules: []retention.Rule{
				{Charts: []string{"*"}, Tags: []string{"*-dev"}, Versions: "<1.0.0-0", KeepNewest: 10, OlderThan: retention.Duration(2160 * time.Hour)},
				{KeepNewest: 100},
			},
		},
		Notifications: []receivers.Receiver{
			{
				Name: "flux", URL: "https://flux.example.com/hook", Format: "flux", Events: []receivers.Event{"package.created", "tag.moved"},
				Filter: receivers.Filter{Charts: []string{"team/*"}, Prereleases: "Exclude"},
				Auth:   receivers.Auth{HMAC: &receivers.HMAC{Dialect: "generic", SecretFile: "/secrets/flux"}},
				TLS:    receivers.TLS{CAFile: "/ca/flux.crt"},
			},
			{
				Name: "ci", URL: "https://ci.example.com", Format: "buildkite", HeaderPrefix: "Acme", Disabled: true,
				Auth: receivers.Auth{Header: &receivers.Header{Name: "X-Acme-Token", SecretFile: "/secrets/ci"}}, TLS: receivers.TLS{InsecureSkipVerify: true},
			},
			{
				Name: "oidc", URL: "http://10.0.0.1/hook", Format: "cloudevents",
				Auth: receivers.Auth{ServiceAccountToken: &receivers.Token{File: "/secrets/token"}},
			},
		},
		DrainTimeout: registryserver.Duration(45 * time.Second),
		DrainDelay:   registryserver.Duration(5 * time.Second),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(got, got.WithDefaults()); diff != "" {
		t.Errorf("a full configuration is changed by defaults:\n%s", diff)
	}
	// The golden file has every field, or a new one could be read under a wrong name unnoticed.
	requireAllSet(t, "Config", reflect.ValueOf(got))
}

func TestLoadConfigInS3(t *testing.T) {
	got, err := registryserver.LoadConfig("testdata/s3.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := registryserver.Config{Storage: registryserver.StorageConfig{S3: registryserver.S3Config{
		Bucket: "charts", Prefix: "team-a/charts", Region: "eu-central-1", Endpoint: "https://s3.example.com", PathStyle: true,
		CredentialsDir: "/credentials", CAFile: "/ca/ca.crt", Redirect: "Large",
	}, Staleness: registryserver.Duration(10 * time.Second)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	requireAllSet(t, "S3Config", reflect.ValueOf(got.Storage.S3))
	full := got.WithDefaults()
	if err := full.Validate(); err != nil {
		t.Error(err)
	}
	if full.Storage != got.Storage || full.Keys != "charts.state/upload.keys" || full.Access.File != "charts.state/access.json" {
		t.Errorf("%+v", full)
	}
	least := registryserver.Config{Storage: registryserver.StorageConfig{S3: registryserver.S3Config{Bucket: "charts"}}}.WithDefaults()
	if s := least.Storage.S3; s.Region != "us-east-1" || s.Redirect != "Never" || least.Storage.Dir != "" || least.Validate() != nil {
		t.Errorf("%+v: %v", least.Storage, least.Validate())
	}
}

func requireAllSet(t *testing.T, path string, v reflect.Value) {
	t.Helper()
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Tag.Get("yaml") == "-" {
			continue
		}
		if path+"."+field.Name == "Config.Storage" {
			continue // Its members exclude each other: TestLoadConfigInS3 has them.
		}
		if name := path + "." + field.Name; v.Field(i).Kind() == reflect.Struct {
			requireAllSet(t, name, v.Field(i))
		} else if v.Field(i).IsZero() {
			t.Errorf("testdata/full.yaml does not set %s", name)
		}
	}
}

func TestConfigFileIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ content, words string }{
		"an unknown field":     {"lisen: 127.0.0.1:1\n", "line 1: the field lisen is unknown"},
		"an unknown field in":  {"storage: {dir: x, nfs: y}\n", "line 1: the field nfs is unknown"},
		"a duplicate field":    {"listen: a\nlisten: b\n", "listen"},
		"two documents":        {"listen: 127.0.0.1:1\n---\nlisten: 127.0.0.1:2\n", "more than one document"},
		"a bad duration":       {"\ndrainTimeout: soon\n", `line 2: "soon" is not a duration`},
		"a bad size":           {"quota: {size: big}\n", `line 1: "big" is not a size such as 10Gi`},
		"two bad values":       {"drainTimeout: 30\nquota: {size: big}\n", `line 2: "big" is not a size such as 10Gi`},
		"no number":            {"limits: {blobBytes: 1Gi}\n", "line 1: `1Gi` is not a whole number"},
		"no list":              {"notifications: [{filter: {charts: x*}}]\n", "line 1: `x*` is not a list"},
		"neither true":         {"audit: {reads: seldom}\n", "line 1: `seldom` is neither true nor false"},
		"what is not YAML":     {"{", "reading the configuration"},
		"another type":         {"listen: [1]\n", "line 1"},
		"more than is allowed": {strings.Repeat("# padding\n", 200_000), "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := registryserver.LoadConfig(path); err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("error %v, want one with %q", err, c.words)
			}
		})
	}
	if _, err := registryserver.LoadConfig(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there is read")
	}
}

// What belongs to the server must not come to lie among the content.
func TestStateIsBesideTheDirectory(t *testing.T) {
	folder := t.TempDir()
	if err := os.MkdirAll(filepath.Join(folder, "data", "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Join(folder, "data"))
	for dir, want := range map[string]string{
		".":        filepath.Join(folder, "data.state"),
		"below/":   "below.state",
		"..":       folder + ".state",
		"below/..": filepath.Join(folder, "data.state"),
		"../data":  "../data.state",
	} {
		c := registryserver.Config{Storage: registryserver.StorageConfig{Dir: dir}}.WithDefaults()
		if got := filepath.Dir(c.Access.File); got != want || filepath.Dir(c.Keys) != want {
			t.Errorf("the state of %s is in %s and %s, want %s", dir, got, filepath.Dir(c.Keys), want)
		}
	}
}

func TestEmptyConfigIsValid(t *testing.T) {
	c := registryserver.Config{}.WithDefaults()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if c.Access.File != filepath.Join("data.state", "access.json") || c.Listen != "127.0.0.1:5000" {
		t.Errorf("defaults are %+v", c)
	}
}

// inS3 changes a storage in S3 that is right otherwise.
func inS3(change func(*registryserver.S3Config)) func(*registryserver.Config) {
	return func(c *registryserver.Config) {
		s := registryserver.S3Config{Bucket: "charts", Region: "us-east-1", Redirect: "Never"}
		change(&s)
		c.Storage = registryserver.StorageConfig{S3: s}
	}
}

func TestValidateNamesTheField(t *testing.T) {
	for _, c := range []struct {
		field  string
		change func(*registryserver.Config)
	}{
		{"organization", func(c *registryserver.Config) { c.Organization = "Acme" }},
		{"organization", func(c *registryserver.Config) { c.Organization = "v2" }},
		{"organization", func(c *registryserver.Config) { c.Organization = strings.Repeat("a", 64) }},
		{"registry", func(c *registryserver.Config) { c.Registry = "a/b" }},
		{"registry", func(c *registryserver.Config) { c.Registry = ".." }},
		{"listen", func(c *registryserver.Config) { c.Listen = "5000" }},
		{"metrics.listen", func(c *registryserver.Config) { c.Metrics.Listen = "x" }},
		{"admin.listen", func(c *registryserver.Config) { c.Admin.Listen = "" }},
		{"admin.listen", func(c *registryserver.Config) { c.Admin.Listen = "x" }},
		{"admin.cert", func(c *registryserver.Config) { c.Admin.Cert = "" }},
		{"admin.key", func(c *registryserver.Config) { c.Admin.Key = "" }},
		{"admin.clientCA", func(c *registryserver.Config) { c.Admin.ClientCA = "" }},
		{"access.stateDir", func(c *registryserver.Config) { c.Access.StateDir = "" }},
		{"access.visibility", func(c *registryserver.Config) { c.Access.Visibility = "open" }},
		{"artifacts", func(c *registryserver.Config) { c.Artifacts = "images" }},
		{"retention.rules", func(c *registryserver.Config) { c.Retention.Rules = nil }},
		{"retention.rules[1].versions", func(c *registryserver.Config) {
			c.Retention.Rules = []retention.Rule{{KeepNewest: 1}, {KeepNewest: 1, Versions: "latest"}}
		}},
		{"tags.policy", func(c *registryserver.Config) { c.Tags.Policy = "none" }},
		{"tags.mutable", func(c *registryserver.Config) { c.Tags.Mutable = []string{""} }},
		{"tags.mutable", func(c *registryserver.Config) { c.Tags.Mutable = []string{"1.0.0+*"} }},
		{"tags.mutable", func(c *registryserver.Config) { c.Tags.Mutable = []string{strings.Repeat("a", 129)} }},
		{"tags.mutable", func(c *registryserver.Config) { c.Tags.Mutable = make([]string, 65) }},
		{"about.displayName", func(c *registryserver.Config) { c.About.DisplayName = strings.Repeat("ä", 129) }},
		{"about.description", func(c *registryserver.Config) { c.About.Description = "two\nlines" }},
		{"about.emoji", func(c *registryserver.Config) { c.About.Emoji = strings.Repeat("🌻", 17) }},
		{"about.color", func(c *registryserver.Config) { c.About.Color = "red" }},
		{"about.color", func(c *registryserver.Config) { c.About.Color = "#fff;x" }},
		{"tls.authority", func(c *registryserver.Config) { c.TLS.Authority = "charts-ca" }},
		{"tls.authority", func(c *registryserver.Config) { c.TLS.Authority = "a/b; rm" }},
		{"tls", func(c *registryserver.Config) { c.TLS.Key = "" }},
		{"tls", func(c *registryserver.Config) { c.TLS.Cert = "" }},
		{"externalURL", func(c *registryserver.Config) { c.ExternalURL = "charts.example.com" }},
		{"externalURL", func(c *registryserver.Config) { c.ExternalURL = "https://charts.example.com/path" }},
		{"externalURL", func(c *registryserver.Config) { c.ExternalURL = "https://user@charts.example.com" }},
		{"externalURL", func(c *registryserver.Config) { c.ExternalURL = "ftp://charts.example.com" }},
		{"allowEgressCIDRs", func(c *registryserver.Config) { c.AllowEgressCIDRs = []string{"10.0.0.1/8"} }},
		{"allowEgressCIDRs", func(c *registryserver.Config) { c.AllowEgressCIDRs = []string{"everywhere"} }},
		{"storage", func(c *registryserver.Config) { c.Storage.S3.Bucket = "charts" }},
		{"storage.s3.bucket", inS3(func(c *registryserver.S3Config) { c.Bucket = "" })},
		{"storage.s3.bucket", inS3(func(c *registryserver.S3Config) { c.Bucket = "a/b" })},
		{"storage.s3.prefix", inS3(func(c *registryserver.S3Config) { c.Prefix = "/a" })},
		{"storage.s3.prefix", inS3(func(c *registryserver.S3Config) { c.Prefix = "a/../b" })},
		{"storage.s3.prefix", inS3(func(c *registryserver.S3Config) { c.Prefix = strings.Repeat("a/", 256) + "aa" })},
		{"storage.s3.region", inS3(func(c *registryserver.S3Config) { c.Region = "eu central" })},
		{"storage.s3.endpoint", inS3(func(c *registryserver.S3Config) { c.Endpoint = "s3.example.com" })},
		{"storage.s3.endpoint", inS3(func(c *registryserver.S3Config) { c.Endpoint = "https://id:secret@s3.example.com" })},
		{"storage.s3.endpoint", inS3(func(c *registryserver.S3Config) { c.Endpoint = "https://s3.example.com/charts" })},
		{"storage.staleness", func(c *registryserver.Config) { c.Storage.Staleness = -1 }},
		{"storage.staleness", func(c *registryserver.Config) { c.Storage.Staleness = registryserver.Duration(5*time.Minute + 1) }},
		{"storage.s3.redirect", inS3(func(c *registryserver.S3Config) { c.Redirect = "Always" })},
		{"quota.size", func(c *registryserver.Config) { c.Quota.Size = -1 }},
		{"quota.charts", func(c *registryserver.Config) { c.Quota.Charts = -1 }},
		{"quota.versions", func(c *registryserver.Config) { c.Quota.Versions = -1 }},
		{"quota.chartSize", func(c *registryserver.Config) { c.Quota.ChartSize = -1 }},
		{"quota.chartSize", func(c *registryserver.Config) { c.Quota.ChartSize = c.Quota.Size + 1 }},
		{"trustedProxies", func(c *registryserver.Config) { c.TrustedProxies = []string{"10.0.0.1"} }},
		{"audit.maxFileMiB", func(c *registryserver.Config) { c.Audit.MaxFileMiB = 1 }},
		{"audit.keepFiles", func(c *registryserver.Config) { c.Audit.KeepFiles = -1 }},
		{"log.format", func(c *registryserver.Config) { c.Log.Format = "xml" }},
		{"limits.blobBytes", func(c *registryserver.Config) { c.Limits.BlobBytes = -1 }},
		{"limits.clientTimeout", func(c *registryserver.Config) { c.Limits.ClientTimeout = 1 }},
		{"limits.uploads", func(c *registryserver.Config) { c.Limits.Uploads = -1 }},
		{"limits.requestsPerSecond", func(c *registryserver.Config) { c.Limits.RequestsPerSecond = 1 << 30 }},
		{"drainTimeout", func(c *registryserver.Config) { c.DrainTimeout = -1 }},
	} {
		config, err := registryserver.LoadConfig("testdata/full.yaml")
		if err != nil {
			t.Fatal(err)
		}
		c.change(&config)
		if err := config.Validate(); err == nil || !strings.HasPrefix(err.Error(), c.field+": ") {
			t.Errorf("error %v, want one about %s", err, c.field)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%v", err)
		}
	}
}

func FuzzLoadConfig(f *testing.F) {
	full, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(full), "", "{", "a: &a [*a]", "listen: 1\n", "drainTimeout: -1s\n", "---\n---\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := registryserver.LoadConfig(path)
		if err != nil {
			return
		}
		if c = c.WithDefaults(); c.Validate() == nil && (c.Listen == "" || c.Limits.BlobBytes <= 0 || c.DrainTimeout <= 0) {
			t.Errorf("%q is valid as %+v", data, c)
		}
	})
}
