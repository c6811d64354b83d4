package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

const serveLong = `Serve a registry from a directory or from S3.

Without flags it serves oci://127.0.0.1:5000/default/charts from ./data over plain HTTP: private, with one token that
reads and writes, which is made at the first start. What belongs to the server but not to the content is beside the
directory, in DIR.state: the access file access.json, the first token in access.token, and the keys that sign upload
addresses in upload.keys. All three are private to the user who runs the server.

With --s3-bucket the content is in that bucket, which must exist, and the rest in BUCKET.state in the working directory.
Any number of servers may serve one bucket when they share --access and --keys. Credentials come from the files in
--s3-credentials, which may be replaced while the server runs, or from where the AWS tools take them: the environment,
or the identity of the pod or machine.

A running server takes changes of the access file, of the certificate and of the keys by itself. SIGTERM or Ctrl-C lets
running pushes finish; a second one does not.`

const serveExample = `  # A registry on a laptop; it prints what to paste into helm
  chartroom serve --dir ./data

  # With TLS, under a name of its own, readable by all
  chartroom serve --listen :443 --external-url https://charts.example.com --tls-cert tls.crt --tls-key tls.key \
    --organization acme --registry charts --dir /var/lib/chartroom --visibility public

  # From a bucket of an S3 server
  chartroom serve --s3-bucket charts --s3-endpoint https://s3.example.com --s3-path-style --s3-credentials ./credentials

  # Another token, while the server runs
  chartroom token create --access ./data.state/access.json --scopes read_packages`

func serveCommand() *cobra.Command {
	var configured *configFlags
	c := &cobra.Command{
		Use:     "serve",
		Short:   "Serve a registry from a directory or from S3",
		Long:    serveLong,
		Example: serveExample,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := configured.config()
			if err != nil {
				return err
			}
			return serve(c, config)
		},
	}
	configured = newStorageFlags(c)
	for _, f := range []struct {
		name, usage string
		field       func(*registryserver.Config) *string
	}{
		{"listen", "`address` of the registry (default 127.0.0.1:5000)", func(c *registryserver.Config) *string { return &c.Listen }},
		{"visibility", "private or public: who may read without a token; overrides the access file", func(c *registryserver.Config) *string { return &c.Access.Visibility }},
		{"access", "`file` of the tokens, as `chartroom token` writes it (default access.json in DIR.state)", func(c *registryserver.Config) *string { return &c.Access.File }},
		{"artifacts", "Any OCI artifact, or Charts and what refers to them: what may be pushed (default Any)", func(c *registryserver.Config) *string { return &c.Artifacts }},
		{"tags-policy", "Immutable or Mutable: whether a tag may be moved to other content (default Immutable)", func(c *registryserver.Config) *string { return &c.Tags.Policy }},
		{"external-url", "`address` at which clients reach the registry, for messages and as the audience of OIDC tokens (default made of --listen)", func(c *registryserver.Config) *string { return &c.ExternalURL }},
		{"tls-cert", "`file` of the certificate chain in PEM; without it the registry speaks plain HTTP", func(c *registryserver.Config) *string { return &c.TLS.Cert }},
		{"tls-key", "`file` of the private key in PEM", func(c *registryserver.Config) *string { return &c.TLS.Key }},
		{"keys", "`file` of the keys that sign upload addresses and session tokens, shared by all servers of one registry (default upload.keys in DIR.state)", func(c *registryserver.Config) *string { return &c.Keys }},
		{"metrics-listen", "`address` of /metrics, /healthz and /readyz (default none)", func(c *registryserver.Config) *string { return &c.Metrics.Listen }},
		{"admin-listen", "`address` of the operator's port (default none)", func(c *registryserver.Config) *string { return &c.Admin.Listen }},
		{"admin-cert", "`file` of the operator's port's certificate chain in PEM", func(c *registryserver.Config) *string { return &c.Admin.Cert }},
		{"admin-key", "`file` of the operator's port's private key in PEM", func(c *registryserver.Config) *string { return &c.Admin.Key }},
		{"admin-client-ca", "`file` of the authorities that sign the operator's certificate, in PEM", func(c *registryserver.Config) *string { return &c.Admin.ClientCA }},
		{"access-state", "`directory` that keeps the last access snapshot that the operator sent", func(c *registryserver.Config) *string { return &c.Access.StateDir }},
		{"s3-redirect", "which downloads of blobs are redirected to S3 itself: Never or Large, from 1 MiB (default Never)", func(c *registryserver.Config) *string { return &c.Storage.S3.Redirect }},
		{"audit-file", "`file` that keeps the record of decisions, beside standard output (default none)", func(c *registryserver.Config) *string { return &c.Audit.File }},
		{"log-format", "text or json (default text)", func(c *registryserver.Config) *string { return &c.Log.Format }},
	} {
		configured.string(f.name, f.usage, f.field)
	}
	for flag, words := range map[string][]string{
		"s3-redirect": {registryserver.RedirectNever, registryserver.RedirectLarge}, "visibility": {"private", "public"},
		"artifacts": {"Any", "Charts"}, "tags-policy": {"Immutable", "Mutable"}, "log-format": {"text", "json"},
	} {
		complete(c, flag, words...)
	}
	mutable := c.Flags().StringSlice("mutable-tags", nil, "`globs` of tags that may be moved although the policy is Immutable, for example '*-dev'")
	configured.set["mutable-tags"] = func(c *registryserver.Config) { c.Tags.Mutable = *mutable }
	configured.quota()
	kept := &policyFlag{}
	c.Flags().Var(kept, "retention", "`policy` in YAML or JSON that says which versions are deleted in the course of time, for example '{rules: [{tags: [\"*-dev\"], olderThan: 336h}]}' (default none)")
	configured.set["retention"] = func(c *registryserver.Config) { c.Retention = kept.policy }
	told := &receiversFlag{}
	c.Flags().Var(told, "notifications", "`receivers` of events in YAML or JSON, for example '[{name: flux, url: \"https://flux.example.com/hook/…\", format: harbor}]' (default none)")
	configured.set["notifications"] = func(c *registryserver.Config) { c.Notifications = told.receivers }
	stale := c.Flags().Duration("staleness", 0, "how long a version is served again without a look at the storage, up to 5m: saves S3 a request, and others see deletes later")
	configured.set["staleness"] = func(c *registryserver.Config) { c.Storage.Staleness = registryserver.Duration(*stale) }
	egress := c.Flags().StringSlice("allow-egress-cidrs", nil, "`networks` in which issuers of OIDC tokens may be asked for their keys, and receivers told of events, although they are not public, for example 10.0.0.0/8")
	configured.set["allow-egress-cidrs"] = func(c *registryserver.Config) { c.AllowEgressCIDRs = *egress }
	proxies := c.Flags().StringSlice("trusted-proxies", nil, "`networks` of the proxies that are believed when they say in X-Forwarded-For whom they speak for, for example 10.0.0.0/8")
	configured.set["trusted-proxies"] = func(c *registryserver.Config) { c.TrustedProxies = *proxies }
	reads := c.Flags().Bool("audit-reads", false, "record in the audit lines on standard output what is read, too, and not only what is changed or refused")
	configured.set["audit-reads"] = func(c *registryserver.Config) { c.Audit.Reads = *reads }
	for name, f := range map[string]struct {
		usage string
		field func(*registryserver.Config) *int
	}{
		"requests-per-second":          {"how many requests one token, or one address without a token, may make in the long run (default no limit)", func(c *registryserver.Config) *int { return &c.Limits.RequestsPerSecond }},
		"registry-requests-per-second": {"how many requests all clients together may make in the long run (default no limit)", func(c *registryserver.Config) *int { return &c.Limits.RegistryRequestsPerSecond }},
	} {
		value := c.Flags().Int(name, 0, f.usage)
		configured.set[name] = func(c *registryserver.Config) { *f.field(c) = *value }
	}
	drain := c.Flags().Duration("drain-timeout", 30*time.Second, "how long running pushes and requests may take to finish at the end")
	delay := c.Flags().Duration("drain-delay", 0, "within --drain-timeout, how long to wait until nobody has opened a connection, for load balancers that learn late")
	configured.set["drain-delay"] = func(c *registryserver.Config) { c.DrainDelay = registryserver.Duration(*delay) }
	configured.duration("gc-interval", time.Hour, "the time between two rounds of garbage collection through all charts", func(c *registryserver.Config) *registryserver.Duration { return &c.GarbageCollection.Interval })
	configured.duration("gc-grace", 24*time.Hour, "how long new content is left alone that no tag leads to yet", func(c *registryserver.Config) *registryserver.Duration { return &c.GarbageCollection.Grace })
	configured.duration("gc-undo", time.Hour, "how long garbage stays in the trash", func(c *registryserver.Config) *registryserver.Duration { return &c.GarbageCollection.Undo })
	purge := c.Flags().Bool("purge", false, "serve nothing, and delete all that is stored when the operator says so; for the operator")
	configured.set["purge"] = func(c *registryserver.Config) { c.Purge = *purge }
	configured.set["drain-timeout"] = func(c *registryserver.Config) { c.DrainTimeout = registryserver.Duration(*drain) }
	return c
}

// receiversFlag are receivers of events that are written on the command line.
type receiversFlag struct{ receivers []receivers.Receiver }

func (f *receiversFlag) String() string { return "" }
func (f *receiversFlag) Type() string   { return "receivers" }
func (f *receiversFlag) Set(text string) (err error) {
	f.receivers, err = registryserver.ParseNotifications([]byte(text))
	return err
}

func serve(c *cobra.Command, config registryserver.Config) error {
	// Who reads the record or the log may go away, and the registry stays.
	signal.Ignore(syscall.SIGPIPE)
	out := c.OutOrStdout()
	// Where an operator sends the access snapshots, there is nobody to greet, and no token to make.
	operated := config.Admin.Listen != ""
	var first firstToken
	if !operated {
		var err error
		if first, err = ensureAccess(config.Access.File); err != nil {
			return err
		}
	}
	server, err := registryserver.New(c.Context(), config, registryserver.Outputs{
		Log: newLogger(c.ErrOrStderr(), config.Log.Format), Requests: c.ErrOrStderr(), Audit: out,
	})
	if err != nil {
		return err
	}
	if !operated {
		greet(out, isTerminal(out), config, server.URL(), first)
	}
	return server.Run(c.Context())
}

func newLogger(w io.Writer, format string) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	return slog.New(slog.NewTextHandler(w, nil))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// displayed is a path or address as a shell takes it.
func displayed(s string) string {
	for _, r := range s {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		case r == '/', r == '.', r == '-', r == '_', r == ':', r == '+', r == ',', r == '@':
		default:
			return fmt.Sprintf("%q", s)
		}
	}
	return s
}
