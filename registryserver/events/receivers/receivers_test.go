package receivers_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
)

func good() receivers.Receiver {
	return receivers.Receiver{Name: "flux", URL: "https://flux.example.com/hook?a=b", Format: receivers.Flux}
}

func TestValidate(t *testing.T) {
	for name, change := range map[string]func(r *receivers.Receiver){
		"the least":   func(*receivers.Receiver) {},
		"plain HTTP":  func(r *receivers.Receiver) { r.URL = "http://10.0.0.1:8080" },
		"a long name": func(r *receivers.Receiver) { r.Name = strings.Repeat("a", 63) },
		"all events":  func(r *receivers.Receiver) { r.Events = receivers.All() },
		"a filter": func(r *receivers.Receiver) {
			r.Filter = receivers.Filter{Charts: []string{"team/*"}, Prereleases: "only"}
		},
		"a header":       func(r *receivers.Receiver) { r.Auth.Header = &receivers.Header{Name: "X-Token", SecretFile: "f"} },
		"Authorization":  func(r *receivers.Receiver) { r.Auth.Header = &receivers.Header{SecretFile: "f"} },
		"a signature":    func(r *receivers.Receiver) { r.Auth.HMAC = &receivers.HMAC{SecretFile: "f"} },
		"a token":        func(r *receivers.Receiver) { r.Auth.ServiceAccountToken = &receivers.Token{File: "f"} },
		"authorities":    func(r *receivers.Receiver) { r.TLS.CAFile = "f" },
		"no verifying":   func(r *receivers.Receiver) { r.TLS.InsecureSkipVerify = true },
		"another prefix": func(r *receivers.Receiver) { r.Format, r.HeaderPrefix = receivers.Buildkite, "Acme-Corp" },
		"Harbor":         func(r *receivers.Receiver) { r.Format, r.Events = receivers.Harbor, receivers.Packages() },
	} {
		r := good()
		change(&r)
		if problems := receivers.Validate([]receivers.Receiver{r}); problems != nil {
			t.Errorf("%s: %v", name, problems)
		}
	}
	for name, c := range map[string]struct {
		change func(r *receivers.Receiver)
		words  string
	}{
		"no name":                 {func(r *receivers.Receiver) { r.Name = "" }, "[0].name: "},
		"a name in upper case":    {func(r *receivers.Receiver) { r.Name = "Flux" }, "[0].name: "},
		"a name that leads away":  {func(r *receivers.Receiver) { r.Name = "../x" }, "[0].name: "},
		"a name that is too long": {func(r *receivers.Receiver) { r.Name = strings.Repeat("a", 64) }, "[0].name: "},
		"a dash at the end":       {func(r *receivers.Receiver) { r.Name = "a-" }, "[0].name: "},
		"no address":              {func(r *receivers.Receiver) { r.URL = "" }, "[0].url: "},
		"a path alone":            {func(r *receivers.Receiver) { r.URL = "/hook" }, "[0].url: "},
		"another scheme":          {func(r *receivers.Receiver) { r.URL = "file:///etc/passwd" }, "[0].url: "},
		"no host":                 {func(r *receivers.Receiver) { r.URL = "https://:443/x" }, "[0].url: "},
		"a password":              {func(r *receivers.Receiver) { r.URL = "https://u:hunter2@example.com/" }, "which would be shown"},
		"a fragment":              {func(r *receivers.Receiver) { r.URL = "https://example.com/#x" }, "never sent"},
		"an empty fragment":       {func(r *receivers.Receiver) { r.URL = "https://example.com/#" }, "never sent"},
		"a space":                 {func(r *receivers.Receiver) { r.URL = "https://example.com/a b" }, "percent-encoding"},
		"a line break":            {func(r *receivers.Receiver) { r.URL = "https://example.com/\r\nX: y" }, "[0].url: "},
		"a long address":          {func(r *receivers.Receiver) { r.URL = "https://example.com/" + strings.Repeat("a", 2048) }, "at most 2048"},
		"no format":               {func(r *receivers.Receiver) { r.Format = "" }, "none of buildkite"},
		"an unknown format":       {func(r *receivers.Receiver) { r.Format = "slack" }, "none of buildkite"},
		"a prefix for nothing":    {func(r *receivers.Receiver) { r.HeaderPrefix = "Acme" }, "for the format buildkite alone"},
		"a prefix with a colon":   {func(r *receivers.Receiver) { r.Format, r.HeaderPrefix = receivers.Buildkite, "a:b" }, "[0].headerPrefix: "},
		"an unknown event":        {func(r *receivers.Receiver) { r.Events = []receivers.Event{"package.renamed"} }, "package.created, package.copied"},
		"a ping to order":         {func(r *receivers.Receiver) { r.Events = []receivers.Event{receivers.Ping} }, "[0].events: "},
		"an event twice":          {func(r *receivers.Receiver) { r.Events = []receivers.Event{receivers.TagMoved, receivers.TagMoved} }, "twice"},
		"Harbor and the quota":    {func(r *receivers.Receiver) { r.Format, r.Events = receivers.Harbor, receivers.All() }, "no events of the registry"},
		"a glob that is none":     {func(r *receivers.Receiver) { r.Filter.Charts = []string{"[a-z]"} }, "[0].filter.charts: "},
		"many globs":              {func(r *receivers.Receiver) { r.Filter.Charts = make([]string, 33) }, "at most 32"},
		"other pre-releases":      {func(r *receivers.Receiver) { r.Filter.Prereleases = "some" }, "Include, Exclude and Only"},
		"two ways": {func(r *receivers.Receiver) {
			r.Auth = receivers.Auth{HMAC: &receivers.HMAC{SecretFile: "f"}, Header: &receivers.Header{SecretFile: "f"}}
		}, "has 2 members"},
		"a header without a file": {func(r *receivers.Receiver) { r.Auth.Header = &receivers.Header{} }, "[0].auth.header.secretFile: is missing"},
		"a header with a colon":   {func(r *receivers.Receiver) { r.Auth.Header = &receivers.Header{Name: "a: b", SecretFile: "f"} }, "[0].auth.header.name: "},
		"the host's header":       {func(r *receivers.Receiver) { r.Auth.Header = &receivers.Header{Name: "host", SecretFile: "f"} }, "the sender's own"},
		"a key without a file":    {func(r *receivers.Receiver) { r.Auth.HMAC = &receivers.HMAC{} }, "[0].auth.hmac.secretFile: is missing"},
		"an unknown dialect":      {func(r *receivers.Receiver) { r.Auth.HMAC = &receivers.HMAC{SecretFile: "f", Dialect: "md5"} }, "none of buildkite, generic"},
		"Flux in another dialect": {func(r *receivers.Receiver) { r.Auth.HMAC = &receivers.HMAC{SecretFile: "f", Dialect: "github"} }, "must be generic"},
		"a token without a file":  {func(r *receivers.Receiver) { r.Auth.ServiceAccountToken = &receivers.Token{} }, "[0].auth.serviceAccountToken.file: is missing"},
		"a file with a NUL":       {func(r *receivers.Receiver) { r.TLS.CAFile = "a\x00" }, "not the name of a file"},
		"authorities for nothing": {func(r *receivers.Receiver) { r.TLS = receivers.TLS{CAFile: "f", InsecureSkipVerify: true} }, "of no use"},
		"TLS without TLS":         {func(r *receivers.Receiver) { r.URL, r.TLS.CAFile = "http://10.0.0.1", "f" }, "begin with https:// alone"},
	} {
		r := good()
		c.change(&r)
		err := errors.Join(receivers.Validate([]receivers.Receiver{r})...)
		if err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: error is %v, want %q", name, err, c.words)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error tells the password: %v", name, err)
		}
	}
	if err := errors.Join(receivers.Validate([]receivers.Receiver{good(), good()})...); err == nil || !strings.Contains(err.Error(), "[1].name: \"flux\" is another receiver's") {
		t.Errorf("two of a name: %v", err)
	}
	var many []receivers.Receiver
	for i := range 17 {
		r := good()
		r.Name = fmt.Sprint("r", i)
		many = append(many, r)
	}
	if err := errors.Join(receivers.Validate(many)...); err == nil || !strings.Contains(err.Error(), "at most 16") {
		t.Errorf("too many: %v", err)
	}
}

func TestWants(t *testing.T) {
	for _, c := range []struct {
		change         func(r *receivers.Receiver)
		event          receivers.Event
		chart, version string
		want           bool
	}{
		{func(*receivers.Receiver) {}, receivers.PackageCreated, "web", "1.0.0", true},
		{func(*receivers.Receiver) {}, receivers.TagMoved, "web", "1.0.0-rc.1", true},
		{func(*receivers.Receiver) {}, receivers.QuotaReached, "", "", false},
		{func(r *receivers.Receiver) { r.Events = receivers.All() }, receivers.QuotaReached, "", "", true},
		{func(r *receivers.Receiver) { r.Events, r.Filter.Charts = receivers.All(), []string{"x"} }, receivers.StorageFailed, "", "", true},
		{func(r *receivers.Receiver) { r.Disabled = true }, receivers.PackageCreated, "web", "1.0.0", false},
		{func(r *receivers.Receiver) { r.Events = []receivers.Event{receivers.PackageDeleted} }, receivers.PackageCreated, "web", "1.0.0", false},
		{func(r *receivers.Receiver) { r.Filter.Charts = []string{"a", "team/*"} }, receivers.PackageCreated, "team/x/y", "1.0.0", true},
		{func(r *receivers.Receiver) { r.Filter.Charts = []string{"a", "team/*"} }, receivers.PackageCreated, "web", "1.0.0", false},
		{func(r *receivers.Receiver) { r.Filter.Prereleases = "Exclude" }, receivers.PackageCreated, "web", "1.0.0-rc.1", false},
		{func(r *receivers.Receiver) { r.Filter.Prereleases = "Exclude" }, receivers.PackageCreated, "web", "1.0.0+rc.1", true},
		{func(r *receivers.Receiver) { r.Filter.Prereleases = "exclude" }, receivers.PackageCreated, "web", "latest", true},
		{func(r *receivers.Receiver) { r.Filter.Prereleases = "Only" }, receivers.PackageCreated, "web", "1.0.0-rc.1+b", true},
		{func(r *receivers.Receiver) { r.Filter.Prereleases = "Only" }, receivers.PackageCreated, "web", "1.0.0", false},
		{func(r *receivers.Receiver) { r.Filter.Prereleases = "include" }, receivers.PackageCreated, "web", "1.0.0-rc.1", true},
	} {
		r := good()
		c.change(&r)
		if got := r.Wants(c.event, c.chart, c.version); got != c.want {
			t.Errorf("%+v wants %s of %s %s: %v", r, c.event, c.chart, c.version, got)
		}
	}
}

func TestFingerprint(t *testing.T) {
	r, same := good(), good()
	if r.Fingerprint() != same.Fingerprint() {
		t.Error("two of the same differ")
	}
	same.URL += "x"
	if r.Fingerprint() == same.Fingerprint() {
		t.Error("a change goes unnoticed")
	}
}
