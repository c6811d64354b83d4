package web

import (
	"html"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// snippet is one on a page.
var snippet = regexp.MustCompile(`(?s)<h3 id="([a-z]+)">.*?<code>(.*?)</code>`)

// snippets are those of a page, as they are copied.
func snippets(t *testing.T, page string) map[string]string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, page, nil)
	ok(t, err)
	answer, err := http.DefaultClient.Do(request)
	ok(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	ok(t, err)
	all := map[string]string{}
	for _, m := range snippet.FindAllStringSubmatch(string(body), -1) {
		all[m[1]] = html.UnescapeString(m[2])
	}
	return all
}

// What is shown works when it is pasted, in helm 3 and helm 4. What needs a cluster is tried up to where one is asked.
func TestSnippetsWork(t *testing.T) {
	for _, version := range []string{"helm-v3", "helm-v4"} {
		t.Run(version, func(t *testing.T) {
			command := exec.CommandContext(t.Context(), "../../hack/tool", version)
			command.Stderr = os.Stderr
			helm, err := command.Output()
			ok(t, err)
			folder := t.TempDir()
			ok(t, os.Symlink(strings.TrimSpace(string(helm)), filepath.Join(folder, "helm")))
			c := newContent(t)
			token := c.token("*", wire.ReadPackages, wire.WritePackages)
			site := c.serve(func(c *registryserver.Config) { c.Access.Visibility = "public" })
			run := func(line string) string {
				t.Helper()
				shell := exec.CommandContext(t.Context(), "sh", "-ec", line)
				shell.Dir = folder
				shell.Env = append(os.Environ(), "PATH="+folder+":"+os.Getenv("PATH"), "TOKEN="+token, "HOME="+folder, "HELM_CONFIG_HOME="+folder+"/config", "HELM_CACHE_HOME="+folder+"/cache", "HELM_DATA_HOME="+folder+"/data")
				out, err := shell.CombinedOutput()
				if err != nil {
					t.Errorf("%s\n%v\n%s", line, err, out)
				}
				return string(out)
			}
			run("helm create shop >/dev/null && helm package shop >/dev/null && rm -r shop")
			publish := snippets(t, site+"/acme/charts/publish")
			run(publish["login"])
			run(strings.ReplaceAll(publish["push"], "CHART-VERSION", "shop-0.1.0"))
			run("rm shop-0.1.0.tgz")
			run("helm create store >/dev/null && helm package store >/dev/null && rm -r store")
			if saved := run(strings.ReplaceAll(publish["curl"], "CHART-VERSION", "store-0.1.0")); !strings.Contains(saved, `{"saved":true}`) {
				t.Errorf("curl says %s", saved)
			}
			run(strings.ReplaceAll(snippets(t, site+"/acme/charts/charts/store/0.1.0")["pull"], "helm pull", "helm show chart"))
			install := snippets(t, site+"/acme/charts/charts/shop/0.1.0")
			run(install["pull"] + " && rm shop-0.1.0.tgz")
			run(install["digest"] + " && rm shop*.tgz")
			if manifests := run(strings.Replace(install["install"], "helm install", "helm template", 1)); !strings.Contains(manifests, "kind: Deployment") {
				t.Errorf("%s makes\n%s", install["install"], manifests)
			}
			if rest, found := strings.CutPrefix(install["upgrade"], "helm upgrade --install "); !found || "helm install "+rest != install["install"] {
				t.Errorf("%q upgrades something else than %q", install["upgrade"], install["install"])
			}
			parent := filepath.Join(folder, "parent")
			ok(t, os.Mkdir(parent, 0o700))
			ok(t, os.WriteFile(filepath.Join(parent, "Chart.yaml"), []byte("apiVersion: v2\nname: parent\nversion: 1.0.0\n"+install["dependency"]), 0o600))
			run("helm dependency update parent --plain-http && test -f parent/charts/shop-0.1.0.tgz")
		})
	}
}
