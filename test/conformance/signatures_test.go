package conformance

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"
)

// chartsOnly is the strictest registry that signatures are pushed to: its tags are immutable besides.
func chartsOnly(c *registryserver.Config) { c.Artifacts = string(chart.Charts) }

// pushChart pushes a chart as helm does and returns its manifest's descriptor.
func pushChart(t *testing.T, to *remote.Repository, name, version string) ocispec.Descriptor {
	t.Helper()
	c := charttest.New(name, version, 1000)
	push := func(mediaType string, b []byte) ocispec.Descriptor {
		d := content.NewDescriptorFromBytes(mediaType, b)
		if err := to.Push(t.Context(), d, bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	push(chart.ConfigMediaType, c.Config)
	push(chart.ContentMediaType, c.Content)
	d := push(charttest.ManifestMediaType, c.Manifest)
	if err := to.Tag(t.Context(), d, version); err != nil {
		t.Fatal(err)
	}
	return d
}

// transplant makes everything that refers to one manifest refer to another one too, as an attacker would who wants what he
// pushed to pass for signed. It returns how many referrers there were.
func transplant(t *testing.T, in *remote.Repository, from, to ocispec.Descriptor) int {
	t.Helper()
	n := 0
	err := in.Referrers(t.Context(), from, "", func(page []ocispec.Descriptor) error {
		for _, d := range page {
			b, err := content.FetchAll(t.Context(), in, d)
			if err != nil {
				return err
			}
			var manifest map[string]any
			if err := json.Unmarshal(b, &manifest); err != nil {
				return err
			}
			manifest["subject"] = to
			if b, err = json.Marshal(manifest); err != nil {
				return err
			}
			n++
			if err := in.Push(t.Context(), content.NewDescriptorFromBytes(d.MediaType, b), bytes.NewReader(b)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// hasTag says whether there is a tag that begins and ends so.
func hasTag(t *testing.T, in *remote.Repository, begin, end string) (has bool) {
	t.Helper()
	if err := in.Tags(t.Context(), "", func(tags []string) error {
		for _, tag := range tags {
			has = has || strings.HasPrefix(tag, begin) && strings.HasSuffix(tag, end)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return has
}

// signatureTag is the tag under which clients that know no referrers keep what belongs to a manifest.
func signatureTag(d digest.Digest) string { return strings.ReplaceAll(d.String(), ":", "-") }

// If this fails, what cosign signs cannot be stored, is not found, or is believed of other content.
func TestCosign(t *testing.T) {
	program := tool(t, "cosign")
	for store, open := range stores {
		t.Run(store, func(t *testing.T) {
			r := start(t, open(t), chartsOnly)
			c := newClient(t, program)
			c.want([]string{"login", r.host, "-u", "anybody", "-p", r.token})
			c.want([]string{"generate-key-pair"})
			app := r.repository(t, "app", r.token)
			ways := map[string]struct {
				flag string
				// tag is how its signature's tag ends, and referrers says that there are some.
				tag       string
				referrers bool
			}{
				"referrers": {"--new-bundle-format=true", "", true},
				"tag":       {"--new-bundle-format=false", ".sig", false},
			}
			for way, w := range ways {
				t.Run(way, func(t *testing.T) {
					c := c
					c.t = t
					signed, forged := pushChart(t, app, "app", "1.0.0-"+way), pushChart(t, app, "app", "1.0.1-"+way)
					address := func(d ocispec.Descriptor) string { return r.name("app@" + d.Digest.String()) }
					sign := []string{"sign", "--yes", "--key", "cosign.key", "--tlog-upload=false", "--use-signing-config=false", w.flag, address(signed)}
					verify := func(d ocispec.Descriptor) []string {
						return []string{"verify", "--key", "cosign.pub", "--insecure-ignore-tlog", w.flag, address(d)}
					}
					c.refused(verify(signed), "no signatures found")
					c.want(sign)
					c.want(verify(signed), "verified")
					// Another signature of the same content moves the tag.
					c.want(append(sign, "--annotations", "by=another"))
					c.want(append(verify(signed), "--annotations", "by=another"), "verified")
					if has := hasTag(t, app, signatureTag(signed.Digest), w.tag); has == w.referrers {
						t.Errorf("there is a tag of the signature: %v", has)
					}
					if n := transplant(t, app, signed, forged); (n > 0) != w.referrers {
						t.Errorf("there are %d referrers", n)
					}
					if !w.referrers {
						d, err := app.Resolve(t.Context(), signatureTag(signed.Digest)+w.tag)
						if err != nil {
							t.Fatal(err)
						}
						if err := app.Tag(t.Context(), d, signatureTag(forged.Digest)+w.tag); err != nil {
							t.Fatal(err)
						}
					}
					c.refused(verify(forged), "digest in")
				})
			}

			reader := newClient(t, program)
			reader.want([]string{"login", r.host, "-u", "anybody", "-p", r.reader})
			write(t, filepath.Join(reader.home, "cosign.key"), read(t, filepath.Join(c.home, "cosign.key")))
			reader.refused([]string{"sign", "--yes", "--key", "cosign.key", "--tlog-upload=false", "--use-signing-config=false", r.name("app:1.0.0-tag")},
				"this token lacks write_packages")
		})
	}
}

// If this fails, what notation signs cannot be stored, is not found, or is believed of other content.
func TestNotation(t *testing.T) {
	program := tool(t, "notation")
	for store, open := range stores {
		t.Run(store, func(t *testing.T) {
			r := start(t, open(t), chartsOnly)
			c := newClient(t, program)
			c.want([]string{"cert", "generate-test", "--default", "acme"})
			policy := filepath.Join(c.home, "policy.json")
			write(t, policy, `{"version":"1.0","trustPolicies":[{"name":"all","registryScopes":["*"],"signatureVerification":{"level":"strict"},
				"trustStores":["ca:acme"],"trustedIdentities":["*"]}]}`)
			c.want([]string{"policy", "import", policy})
			as := func(token string, args ...string) []string {
				return append(args, "--insecure-registry", "-u", "anybody", "-p", token)
			}
			app := r.repository(t, "app", r.token)
			for way, tagged := range map[string]bool{"referrers": false, "tag": true} {
				for _, format := range []string{"jws", "cose"} {
					name := way + "-" + format
					t.Run(name, func(t *testing.T) {
						c := c
						c.t = t
						signed, forged := pushChart(t, app, "app", "1.0.0-"+name), pushChart(t, app, "app", "1.0.1-"+name)
						address := func(d ocispec.Descriptor) string { return r.name("app@" + d.Digest.String()) }
						sign := func(token string) []string {
							force := "--force-referrers-tag=false"
							if tagged {
								force = "--force-referrers-tag=true"
							}
							return as(token, "sign", "--signature-format", format, force, address(signed))
						}
						c.refused(as(r.reader, "verify", address(signed)), "no signature is associated")
						c.refused(sign(r.reader), "this token lacks write_packages")
						c.want(sign(r.token), "Successfully signed")
						c.want(as(r.reader, "verify", address(signed)), "Successfully verified")
						// Another signature of the same content moves the tag.
						c.want(sign(r.token), "Successfully signed")
						c.want(as(r.reader, "verify", address(signed)), "Successfully verified")
						if has := hasTag(t, app, signatureTag(signed.Digest), ""); has != tagged {
							t.Errorf("there is a tag of the signature: %v", has)
						}
						if n := transplant(t, app, signed, forged); n != 2 {
							t.Errorf("there are %d referrers", n)
						}
						c.refused(as(r.reader, "verify", address(forged)), "signature verification failed")
					})
				}
			}
		})
	}
}
