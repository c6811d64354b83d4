package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// firstToken is the token that came with an access file that was made here.
type firstToken struct {
	// file holds the token; empty when there is no such file.
	file string
	// token is set only when it was made just now.
	token access.Token
	made  bool
}

var errOthersAccess = errors.New("the access file was made by another program in the meantime")

// ensureAccess makes an access file with one token that reads and writes where there is no file. The token is written to
// a file beside it, which nobody else may read.
func ensureAccess(path string) (firstToken, error) {
	first := firstToken{file: strings.TrimSuffix(path, ".json") + ".token"}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		if !isOf(first.file, path) {
			first.file = ""
		}
		return first, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return first, fmt.Errorf("making the folder of the access file: %w", err)
	}
	err := access.EditFile(path, func(a *wire.Access) (err error) {
		if a.Revision > 0 {
			return errOthersAccess
		}
		first.token, err = addToken(a, wire.Token{
			Name: "first", Scopes: []wire.Scope{wire.ReadPackages, wire.WritePackages}, Charts: []string{"*"},
		})
		if err != nil {
			return err
		}
		// Before the access file: when this fails, the next start tries again.
		return writePrivate(first.file, first.token.Reveal()+"\n")
	})
	if errors.Is(err, errOthersAccess) {
		return first, nil
	}
	if err != nil {
		return first, fmt.Errorf("making the access file %s: %w", path, err)
	}
	first.made = true
	return first, nil
}

// isOf reports whether a file holds a token that the access file has. The first token may have been revoked since.
func isOf(file, path string) bool {
	content, err := os.ReadFile(file) //nolint:gosec // The path is the administrator's own.
	if err != nil {
		return false
	}
	token, err := access.ParseToken(strings.TrimSpace(string(content)))
	if err != nil {
		return false
	}
	a, err := access.ReadFile(path)
	// An access file that cannot be read says nothing against the token; the log says what is wrong with it.
	return err != nil || slices.ContainsFunc(a.Tokens, hasID(token.ID()))
}

// writePrivate replaces the file at path by one that was private from the first byte on.
func writePrivate(path, content string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".token-*") // Made with mode 0600.
	if err != nil {
		return err
	}
	// There is nothing to remove once it was renamed.
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.WriteString(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// greet prints what to paste. The token itself is shown to a person only: what is not a terminal may be a log.
func greet(w io.Writer, terminal bool, c registryserver.Config, address *url.URL, first firstToken) {
	name := c.Organization + "/" + c.Registry
	plain := ""
	if address.Scheme == "http" {
		plain = " --plain-http"
	}
	fmt.Fprintf(w, "Chartroom %s serves oci://%s/%s from %s\n\n", version, address.Host, name, displayed(c.Storage.String()))
	if first.made {
		fmt.Fprintf(w, "A token that reads and writes was made. It is in %s, and its hash in %s.\n", displayed(first.file), displayed(c.Access.File))
		if terminal {
			fmt.Fprintf(w, "\n  %s\n", first.token.Reveal())
		}
		fmt.Fprintln(w)
	}
	source := displayed(first.file)
	if first.file == "" {
		source = "TOKEN-FILE"
		fmt.Fprintf(w, "Put a token into a file, for example a new one:\n\n  (umask 077; chartroom token create --access %s --scopes read_packages,write_packages > %s)\n\n", displayed(c.Access.File), source)
	}
	fmt.Fprintf(w, "  helm registry login %s --username chartroom --password-stdin%s < %s\n", address.Host, plain, source)
	fmt.Fprintf(w, "  helm push mychart-0.1.0.tgz oci://%s/%s%s\n", address.Host, name, plain)
	fmt.Fprintf(w, "  helm pull oci://%s/%s/mychart --version 0.1.0%s\n\n", address.Host, name, plain)
	fmt.Fprintf(w, "In a browser: %s/%s\n\n", strings.TrimRight(address.String(), "/"), name)
	if plain != "" {
		fmt.Fprint(w, "Helm up to 3.17 has no --plain-http at login: leave it out there.\n\n")
	} else {
		fmt.Fprint(w, "Where the certificate is not a public authority's, add --ca-file with the file of its authority to each line.\n\n")
	}
}
