package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

const serveLong = `Serve a registry from a directory.

Without flags it serves oci://127.0.0.1:5000/default/charts from ./data over plain HTTP: private, with one token that
reads and writes, which is made at the first start. What belongs to the server but not to the content is beside the
directory, in DIR.state: the access file access.json, the first token in access.token, and the keys that sign upload
addresses in upload.keys. All three are private to the user who runs the server.

A running server takes changes of the access file, of the certificate and of the keys by itself. SIGTERM or Ctrl-C lets
running pushes finish; a second one does not.`

const serveExample = `  # A registry on a laptop; it prints what to paste into helm
  chartroom serve --dir ./data

  # With TLS, under a name of its own, readable by all
  chartroom serve --listen :443 --external-url https://charts.example.com --tls-cert tls.crt --tls-key tls.key \
    --organization acme --registry charts --dir /var/lib/chartroom --visibility public

  # Another token, while the server runs
  chartroom token create --access ./data.state/access.json --scopes read_packages`

func serveCommand() *cobra.Command {
	var file string
	// set applies one flag to the configuration.
	set := map[string]func(*registryserver.Config){}
	c := &cobra.Command{
		Use:     "serve",
		Short:   "Serve a registry from a directory",
		Long:    serveLong,
		Example: serveExample,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var config registryserver.Config
			if file != "" {
				var err error
				if config, err = registryserver.LoadConfig(file); err != nil {
					return err
				}
			}
			c.Flags().Visit(func(f *pflag.Flag) {
				if apply, ok := set[f.Name]; ok {
					apply(&config)
				}
			})
			config.Version = version
			config = config.WithDefaults()
			if err := config.Validate(); err != nil {
				return &usageError{err}
			}
			return serve(c, config)
		},
	}
	flags := c.Flags()
	flags.StringVar(&file, "config", "", "configuration `file` in YAML; flags override it")
	for _, f := range []struct {
		name, usage string
		field       func(*registryserver.Config) *string
	}{
		{"listen", "`address` of the registry (default 127.0.0.1:5000)", func(c *registryserver.Config) *string { return &c.Listen }},
		{"organization", "first `element` of every repository name (default \"default\")", func(c *registryserver.Config) *string { return &c.Organization }},
		{"registry", "second `element` of every repository name (default \"charts\")", func(c *registryserver.Config) *string { return &c.Registry }},
		{"dir", "`directory` of the content, made when it is missing (default \"data\")", func(c *registryserver.Config) *string { return &c.Storage.Dir }},
		{"visibility", "private or public: who may read without a token; overrides the access file", func(c *registryserver.Config) *string { return &c.Access.Visibility }},
		{"access", "`file` of the tokens, as `chartroom token` writes it (default access.json in DIR.state)", func(c *registryserver.Config) *string { return &c.Access.File }},
		{"external-url", "`address` at which clients reach the registry, for messages (default made of --listen)", func(c *registryserver.Config) *string { return &c.ExternalURL }},
		{"tls-cert", "`file` of the certificate chain in PEM; without it the registry speaks plain HTTP", func(c *registryserver.Config) *string { return &c.TLS.Cert }},
		{"tls-key", "`file` of the private key in PEM", func(c *registryserver.Config) *string { return &c.TLS.Key }},
		{"keys", "`file` of the keys that sign upload addresses, shared by all servers of one registry (default upload.keys in DIR.state)", func(c *registryserver.Config) *string { return &c.Keys }},
		{"metrics-listen", "`address` of /metrics, /healthz and /readyz (default none)", func(c *registryserver.Config) *string { return &c.Metrics.Listen }},
		{"admin-listen", "`address` of the operator's port (default none)", func(c *registryserver.Config) *string { return &c.Admin.Listen }},
		{"admin-cert", "`file` of the operator's port's certificate chain in PEM", func(c *registryserver.Config) *string { return &c.Admin.Cert }},
		{"admin-key", "`file` of the operator's port's private key in PEM", func(c *registryserver.Config) *string { return &c.Admin.Key }},
		{"admin-client-ca", "`file` of the authorities that sign the operator's certificate, in PEM", func(c *registryserver.Config) *string { return &c.Admin.ClientCA }},
		{"access-state", "`directory` that keeps the last access snapshot that the operator sent", func(c *registryserver.Config) *string { return &c.Access.StateDir }},
		{"log-format", "text or json (default text)", func(c *registryserver.Config) *string { return &c.Log.Format }},
	} {
		value := flags.String(f.name, "", f.usage)
		set[f.name] = func(c *registryserver.Config) { *f.field(c) = *value }
	}
	drain := flags.Duration("drain-timeout", 30*time.Second, "how long running pushes and requests may take to finish at the end")
	set["drain-timeout"] = func(c *registryserver.Config) { c.DrainTimeout = registryserver.Duration(*drain) }
	return c
}

func serve(c *cobra.Command, config registryserver.Config) error {
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
	server, err := registryserver.New(c.Context(), config, newLogger(c.ErrOrStderr(), config.Log.Format))
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
