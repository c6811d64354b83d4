package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/transfer"
	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

const importLong = `Bring charts into a registry: from an archive that ` + "`chartroom export`" + ` or another program wrote, from another OCI
registry, or from a repository with an index.yaml, such as ChartMuseum's.

They go into the storage of a registry, beside a running server or without one, or with --to through the API of a
registry. From OCI registries and archives every byte is kept, and signatures come along. A chart of an index.yaml
becomes what ` + "`helm push`" + ` would have made of it, with its .prov file.

Every digest is checked before anything becomes visible, and a version becomes visible whole. What is there already is
not brought again: the same command, once more, goes on where another was broken off. A version that exists with other
content stays as it is, and is listed at the end, with exit code 1.

Credentials for --from, and for --to when there is no --from, are those of --username and --password-stdin, or else
what helm and docker have stored for the host. They are sent to that host and to no other.`

const importExample = `  # An archive, into the storage of a registry
  chartroom import --dir ./data charts.tar

  # One chart of it, through the API of a registry
  chartroom import --to oci://charts.example.com/acme/charts charts.tar nginx

  # All charts of another registry's namespace; look first
  chartroom import --dir ./data --from oci://old.example.com/acme --dry-run
  chartroom import --dir ./data --from oci://old.example.com/acme

  # Two charts of a classic repository, from version 2 on
  echo "$PASSWORD" | chartroom import --dir ./data --from https://charts.example.com/stable \
    --username me --password-stdin --version '>=2.0.0' nginx redis`

// importFlags are what an import is told.
type importFlags struct {
	storage                              *configFlags
	from, to, as, username, caFile       string
	version                              string
	artifacts, output                    *choice
	passwordStdin, plainHTTP, skipVerify bool
	options                              transfer.Options
	password                             string
	authorities                          *x509.CertPool
}

func importCommand() *cobra.Command {
	f := importFlags{options: transfer.Options{Parallel: 4}}
	c := &cobra.Command{
		Use:     "import FILE.tar|--from URL [CHART[:VERSION]...]",
		Short:   "Bring charts from an archive or another registry",
		Long:    importLong,
		Example: importExample,
		RunE: func(c *cobra.Command, args []string) error {
			for _, place := range []string{"dir", "s3-bucket"} {
				if f.to != "" && c.Flags().Changed(place) {
					return &usageError{fmt.Errorf("--to and --%s exclude each other: the charts go to a registry's API, or into its storage", place)}
				}
			}
			if err := f.check(args); err != nil {
				return &usageError{err}
			}
			if err := f.read(c); err != nil {
				return err
			}
			return f.run(c, args)
		},
	}
	f.storage = newStorageFlags(c)
	flags := c.Flags()
	flags.StringVar(&f.from, "from", "", "`address` of another registry: oci://HOST/PATH of a chart or of a namespace, or the https://… of a folder with an index.yaml")
	flags.StringVar(&f.to, "to", "", "`address` of a registry to bring them to through its API, oci://HOST/PATH, in place of storage")
	flags.StringVar(&f.as, "as", "", "`chart` that versions of an archive belong to that are named by their tag alone")
	flags.StringVar(&f.version, "version", "", "only versions within a `constraint`, for example '>=2.0.0 <3'")
	f.artifacts = choiceFlag(c, "artifacts", "", "what to take of an OCI registry", "charts", "any")
	flags.BoolVar(&f.options.DryRun, "dry-run", false, "only say what would be brought")
	flags.IntVar(&f.options.Parallel, "parallel", f.options.Parallel, "how many `versions` are brought at the same time")
	flags.StringVar(&f.username, "username", "", "`name` to log in with (default with --password-stdin \"chartroom\")")
	flags.BoolVar(&f.passwordStdin, "password-stdin", false, "read the password or token from standard input")
	flags.BoolVar(&f.plainHTTP, "plain-http", false, "speak HTTP without TLS to oci:// addresses")
	flags.StringVar(&f.caFile, "ca-file", "", "`file` of the authorities to trust, in PEM, in place of the system's")
	flags.BoolVar(&f.skipVerify, "insecure-skip-tls-verify", false, "take any certificate")
	f.output = outputFlag(c)
	return c
}

// check judges what was typed.
func (f *importFlags) check(args []string) error {
	switch {
	case f.from == "" && len(args) == 0:
		return errors.New("name an archive, or a registry with --from")
	case f.options.Parallel < 1 || f.options.Parallel > 64:
		return errors.New("--parallel: give a number from 1 to 64")
	case f.from == "" && f.to == "" && (f.username != "" || f.passwordStdin):
		return errors.New("--username and --password-stdin are for --from or --to")
	case f.username != "" && !f.passwordStdin:
		return errors.New("--username goes with --password-stdin")
	case f.from != "" && f.as != "":
		return errors.New("--as is for archives")
	}
	if _, err := parseAddress(f.from, "oci", "https", "http"); f.from != "" && err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	if _, err := parseAddress(f.to, "oci"); f.to != "" && err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	if _, err := semver.NewConstraint(f.version); f.version != "" && err != nil {
		return fmt.Errorf("--version: %q is not a constraint such as '>=2.0.0 <3': %w", f.version, err)
	}
	return nil
}

// parseAddress does not quote what it refuses, which may have a password in it.
func parseAddress(address string, schemes ...string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("it is not an address such as %s://HOST/PATH", schemes[0])
	}
	if u.User != nil {
		return nil, errors.New("it has credentials in it, which others on this machine can read: give --username and --password-stdin")
	}
	for _, s := range schemes {
		if u.Scheme == s {
			return u, nil
		}
	}
	return nil, fmt.Errorf("it begins with %s://, and must begin with %s://", u.Scheme, strings.Join(schemes, ":// or "))
}

// read reads the password and the authorities.
func (f *importFlags) read(c *cobra.Command) error {
	if f.passwordStdin {
		const most = 64 << 10
		content, err := io.ReadAll(io.LimitReader(c.InOrStdin(), most))
		if err != nil {
			return fmt.Errorf("read the password: %w", err)
		}
		if f.password = strings.TrimRight(string(content), "\r\n"); f.password == "" {
			return errors.New("there is no password on standard input")
		}
		if f.username == "" {
			f.username = "chartroom"
		}
	}
	if f.caFile != "" {
		content, err := os.ReadFile(f.caFile)
		if err != nil {
			return fmt.Errorf("--ca-file: %w", err)
		}
		f.authorities = x509.NewCertPool()
		if !f.authorities.AppendCertsFromPEM(content) {
			return fmt.Errorf("--ca-file: %s has no certificate in PEM", f.caFile)
		}
	}
	return nil
}

func (f *importFlags) run(c *cobra.Command, args []string) error {
	ctx := c.Context()
	target, limit, err := f.target(ctx)
	if err != nil {
		return err
	}
	var source transfer.Source
	if f.from == "" {
		layout, err := transfer.OpenLayout(ctx, args[0], f.as)
		if err != nil {
			return err
		}
		defer func() { _ = layout.Close() }()
		source, args = layout, args[1:]
	} else if source, err = f.source(ctx, args, limit); err != nil {
		return err
	}
	selected := selections(args)
	seen := map[transfer.Selection]bool{}
	if f.options.Wanted, err = wanted(selected, f.version, seen); err != nil {
		return &usageError{err}
	}
	l := newTransferLog(c, "imported", f.output.asJSON())
	err = transfer.Import(ctx, source, target, f.options, l.report)
	if f.output.asJSON() && err == nil {
		encoder := json.NewEncoder(c.OutOrStdout())
		encoder.SetIndent("", "  ")
		err = encoder.Encode(append([]transfer.Result{}, l.results...))
	}
	if err := l.end(err); err != nil {
		return err
	}
	return missing(selected, seen)
}

// missing is an error that names what was asked for and is not there.
func missing(selected []transfer.Selection, seen map[transfer.Selection]bool) error {
	var names []string
	for _, s := range selected {
		if !seen[s] {
			names = append(names, strings.TrimSuffix(s.Chart+":"+s.Version, ":"))
		}
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("there is no such chart or version: %s", strings.Join(names, ", "))
}

// target returns where the charts go, and how large a chart may be there.
func (f *importFlags) target(ctx context.Context) (transfer.Target, int64, error) {
	config, err := f.storage.given()
	if err != nil {
		return nil, 0, err
	}
	full := config.WithDefaults()
	if err := full.Validate(); err != nil {
		return nil, 0, &usageError{err}
	}
	if f.to != "" {
		u, err := parseAddress(f.to, "oci")
		if err != nil {
			return nil, 0, err
		}
		to, err := transfer.NewOCI(ctx, f.remote(u, f.from == ""), nil, true)
		return to, full.Limits.BlobBytes, err
	}
	store, err := registryserver.OpenExisting(ctx, config)
	if errors.Is(err, repository.ErrNoRegistry) {
		if f.options.DryRun {
			return transfer.Empty{}, full.Limits.BlobBytes, nil
		}
		store, err = registryserver.OpenStore(ctx, config)
	}
	return transfer.Store{Store: store}, full.Limits.BlobBytes, err
}

func (f *importFlags) source(ctx context.Context, args []string, limit int64) (transfer.Source, error) {
	u, err := parseAddress(f.from, "oci", "https", "http")
	if err != nil {
		return nil, err
	}
	r := f.remote(u, true)
	if u.Scheme != "oci" {
		return transfer.NewClassic(ctx, r, limit), nil
	}
	var charts []string
	for _, s := range selections(args) {
		charts = append(charts, s.Chart)
	}
	return transfer.NewOCI(ctx, r, charts, f.artifacts.word == "any")
}

// remote is the registry at u. given says that --username and --password-stdin are for it.
func (f *importFlags) remote(u *url.URL, given bool) transfer.Remote {
	r := transfer.Remote{URL: u, Credential: storedCredential, PlainHTTP: f.plainHTTP, Authorities: f.authorities, SkipVerify: f.skipVerify}
	if given {
		r.Username, r.Password = f.username, f.password
	}
	return r
}

// storedCredential is what `helm registry login` or `docker login` has stored for a host.
func storedCredential(ctx context.Context, host string) (username, password string, err error) {
	docker, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return "", "", fmt.Errorf("read docker's credentials: %w", err)
	}
	helm, err := credentials.NewStore(helmRegistryConfig(), credentials.StoreOptions{})
	if err != nil {
		return "", "", fmt.Errorf("read helm's credentials: %w", err)
	}
	found, err := credentials.Credential(credentials.NewStoreWithFallbacks(helm, docker))(ctx, host)
	if err != nil {
		return "", "", fmt.Errorf("read the credentials of %s: %w", host, err)
	}
	return found.Username, found.Password, nil
}

// helmRegistryConfig is where helm stores credentials, by its documentation of `helm env`.
func helmRegistryConfig() string {
	if name := os.Getenv("HELM_REGISTRY_CONFIG"); name != "" {
		return name
	}
	home := os.Getenv("HELM_CONFIG_HOME")
	if home == "" {
		config, err := os.UserConfigDir()
		if err != nil {
			return ""
		}
		home = filepath.Join(config, "helm")
	}
	return filepath.Join(home, "registry", "config.json")
}

// wanted returns the choice that a selection and a constraint make; nil for all. It notes in seen what of the selection
// there is.
func wanted(selected []transfer.Selection, constraint string, seen map[transfer.Selection]bool) (func(chart, tag string) bool, error) {
	if len(selected) == 0 && constraint == "" {
		return nil, nil //nolint:nilnil // Documented above.
	}
	within := func(string) bool { return true }
	if constraint != "" {
		c, err := semver.NewConstraint(constraint)
		if err != nil {
			return nil, err
		}
		within = func(tag string) bool {
			v, err := semver.NewVersion(strings.ReplaceAll(tag, "_", "+"))
			return err == nil && c.Check(v)
		}
	}
	return func(chart, tag string) bool {
		chosen := len(selected) == 0
		for _, s := range selected {
			if s.Chart == chart && (s.Version == "" || strings.ReplaceAll(s.Version, "+", "_") == tag) {
				seen[s], chosen = true, true
			}
		}
		return chosen && within(tag)
	}, nil
}
