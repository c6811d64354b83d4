//go:build e2e

package e2e

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"golang.org/x/net/html"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	helmConfig   = "application/vnd.cncf.helm.config.v1+json"
	helmArchive  = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	helmProv     = "application/vnd.cncf.helm.chart.provenance.v1.prov"
)

// wire sends requests to a registry's Service and to its pods themselves.
type wire struct {
	client   *http.Client
	service  place
	password string
	// path is that of the registry, organization and slug.
	path string

	mu     sync.Mutex
	pods   []place
	cookie *http.Cookie
	since  time.Time
}

// place is where requests are sent: host and port. pod is empty for the Service.
type place struct{ address, pod string }

// answer is what was answered, all of it. pod is who was asked.
type answer struct {
	status int
	header http.Header
	body   []byte
	pod    string
}

func (a answer) digest() string { return a.header.Get("Docker-Content-Digest") }

func digestOf(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

// wire is one to a registry, with a token.
func (w *world) wire(r *v1alpha1.HelmRegistry, password string) *wire {
	w.Helper()
	var service corev1.Service
	w.must(w.Get(w.Context(), client.ObjectKeyFromObject(r), &service), "reading the Service")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(read(w.T, w.caFile(r.Name)))
	host, path, _ := strings.Cut(strings.TrimPrefix(r.Status.OCIURL, "oci://"), "/")
	name, _, _ := strings.Cut(host, ":")
	return &wire{
		client: &http.Client{
			// Each request may be answered by another pod, and nobody answers for one that is gone.
			Transport: &http.Transport{
				TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS13}, DisableKeepAlives: true,
				DialContext: (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
			},
			Timeout:       time.Minute,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		service: place{address: service.Spec.ClusterIP + ":443"}, password: password, path: path,
	}
}

// know says which pods there are.
func (w *wire) know(pods []corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods = nil
	for _, p := range pods {
		w.pods = append(w.pods, placeOf(p))
	}
}

func placeOf(p corev1.Pod) place {
	return place{net.JoinHostPort(p.Status.PodIP, "5000"), p.Name}
}

func (w *wire) known() []place {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.pods)
}

func (w *wire) v2(chart string) string   { return "/v2/" + w.path + "/" + chart }
func (w *wire) page(below string) string { return "/" + w.path + below }
func (w *wire) classic(chart string) string {
	if chart == "" {
		return "/" + w.path + "/helm"
	}
	return "/" + w.path + "/helm/api/charts?to=" + chart
}

// packages is the address of all, or of the one with an id.
func (w *wire) packages(id string) string {
	organization, registry, _ := strings.Cut(w.path, "/")
	path := "/api/v2/packages/organizations/" + organization + "/registries/" + registry + "/packages"
	if id != "" {
		path += "/" + strings.ReplaceAll(id, "/", "~")
	}
	return path
}

// send sends a request, and reads all of the answer.
func (w *wire) send(to place, method, path string, body []byte, headers ...string) (answer, error) {
	return w.sendWithin(context.Background(), to, method, path, body, headers...)
}

func (w *wire) sendWithin(ctx context.Context, to place, method, path string, body []byte, headers ...string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, "https://"+to.address+path, bytes.NewReader(body))
	if err != nil {
		return answer{pod: to.pod}, err
	}
	request.SetBasicAuth("chartroom", w.password)
	if w.isPage(path) {
		request.Header.Del("Authorization")
		cookie, err := w.session(ctx, to)
		if err != nil {
			return answer{pod: to.pod}, err
		}
		request.AddCookie(cookie)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := w.client.Do(request)
	if err != nil {
		return answer{pod: to.pod}, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, content, to.pod}, err
}

// isPage is true of addresses that are for browsers.
func (w *wire) isPage(path string) bool {
	below, found := strings.CutPrefix(path, "/"+w.path)
	return found && !strings.HasPrefix(below, "/helm")
}

// post sends a form, as a browser does that has signed in.
func (w *wire) post(path string, form url.Values) (answer, error) {
	return w.send(w.service, http.MethodPost, path, []byte(form.Encode()), "Content-Type", "application/x-www-form-urlencoded")
}

// session is the cookie of a browser that has signed in.
func (w *wire) session(ctx context.Context, to place) (*http.Cookie, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.since) < 10*time.Minute {
		return w.cookie, nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+to.address+"/-/sign-in", strings.NewReader(url.Values{"token": {w.password}}.Encode()))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := w.client.Do(request)
	if err != nil {
		return nil, err
	}
	response.Body.Close()
	cookies := response.Cookies()
	if response.StatusCode != http.StatusSeeOther || len(cookies) != 1 {
		return nil, fmt.Errorf("signing in is answered %s with %d cookies", response.Status, len(cookies))
	}
	w.cookie, w.since = cookies[0], time.Now()
	return w.cookie, nil
}

// upload sends an archive in a form, as curl -F does.
func (w *wire) upload(to place, path string, archive archive) (answer, error) {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("file", "chart.tgz")
	if err == nil {
		_, err = part.Write(archive.content)
	}
	if err := errors.Join(err, form.Close()); err != nil {
		return answer{}, err
	}
	return w.send(to, http.MethodPost, path, body.Bytes(), "Content-Type", form.FormDataContentType())
}

// archive is a packaged chart, always the same for the same name, version and variant.
type archive struct {
	name, version string
	variant       int
	content       []byte
}

func newArchive(name, tag string, variant int) archive {
	a := archive{name: name, version: strings.ReplaceAll(tag, "_", "+"), variant: variant}
	sum := fnv.New64a()
	fmt.Fprint(sum, name, tag, variant)
	random := rand.New(rand.NewPCG(sum.Sum64(), 0))
	values := make([]byte, 500+random.IntN(30_000))
	for i := range values {
		values[i] = "0123456789abcdef"[random.IntN(16)]
	}
	var content bytes.Buffer
	zipped := gzip.NewWriter(&content)
	files := tar.NewWriter(zipped)
	for _, file := range [][2]string{
		{"Chart.yaml", fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\nappVersion: %q\ndescription: A chart of the tests.\n", name, a.version, a.appVersion())},
		{"values.yaml", "content: \"" + string(values) + "\"\n"},
	} {
		_ = files.WriteHeader(&tar.Header{Name: name + "/" + file[0], Mode: 0o644, Size: int64(len(file[1])), ModTime: time.Unix(1_700_000_000, 0)}) // A buffer takes everything.
		_, _ = io.WriteString(files, file[1])
	}
	_, _ = files.Close(), zipped.Close()
	a.content = content.Bytes()
	return a
}

func (a archive) appVersion() string { return fmt.Sprintf("app-%d", a.variant) }

// file is where helm expects it.
func (a archive) file(folder, tag string) string {
	return filepath.Join(folder, a.name+"-"+strings.ReplaceAll(tag, "_", "+")+".tgz")
}

func (a archive) config() []byte {
	return fmt.Appendf(nil, `{"name":%q,"version":%q,"description":"A chart of the tests.","apiVersion":"v2","appVersion":%q}`, a.name, a.version, a.appVersion())
}

// sharedProvenance is what several versions of a chart have in common.
var sharedProvenance = []byte("not a signature, but the same for all\n")

func (a archive) manifest(provenance bool) []byte {
	layers := descriptor(helmArchive, a.content)
	if provenance {
		layers += "," + descriptor(helmProv, sharedProvenance)
	}
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, manifestType, descriptor(helmConfig, a.config()), layers)
}

func descriptor(mediaType string, content []byte) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, digestOf(content), len(content))
}

// artifact is a manifest that is no chart, and refers to another one where subject is not empty.
func artifact(subject string, number int) []byte {
	refers := ""
	if subject != "" {
		refers = fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":1}`, manifestType, subject)
	}
	empty := descriptor("application/vnd.oci.empty.v1+json", []byte("{}"))
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":"application/vnd.example","config":%s,"layers":[%s],"annotations":{"number":"%d"}%s}`, manifestType, empty, empty, number, refers)
}

// held is what the bucket holds: charts by name and tag, their sizes, and how often archives were downloaded.
type held struct {
	charts    map[string]map[string]heldVersion
	sizes     map[string]int64
	downloads map[blob]int64
}

type heldVersion struct {
	stored
	size int64
}

// held reads the bucket as docs/design.md describes it, without any of the program's own code.
func (s *s3Server) held(ctx context.Context) (*held, error) {
	const prefix = "team-a/charts/"
	h := &held{charts: map[string]map[string]heldVersion{}, sizes: map[string]int64{}, downloads: map[blob]int64{}}
	objects := map[string]int64{}
	pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: aws.String("charts"), Prefix: aws.String(prefix)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, o := range page.Contents {
			objects[strings.TrimPrefix(aws.ToString(o.Key), prefix)] = aws.ToInt64(o.Size)
		}
	}
	get := func(key string) ([]byte, error) {
		o, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String("charts"), Key: aws.String(prefix + key)})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		defer o.Body.Close()
		return io.ReadAll(o.Body)
	}
	parts := map[string]int64{}
	for k := range objects {
		elements := strings.Split(k, "/")
		if elements[0] != "charts" || len(elements) != 4 || elements[2] != "tags" {
			continue
		}
		chart, tag := strings.ReplaceAll(elements[1], "+", "/"), elements[3]
		v, sizes, err := heldVersionOf(get, objects, k)
		if err != nil {
			return nil, fmt.Errorf("%s:%s: %w", chart, tag, err)
		}
		if v.archive == "" {
			continue // It is no chart.
		}
		if h.charts[chart] == nil {
			h.charts[chart] = map[string]heldVersion{}
		}
		for digest, size := range sizes {
			v.size += size
			parts[chart+" "+digest] = size
		}
		h.charts[chart][tag] = v
	}
	for part, size := range parts {
		chart, _, _ := strings.Cut(part, " ")
		h.sizes[chart] += size
	}
	return h, h.readDownloads(get, objects)
}

// heldVersionOf reads a tag, and what it stands for, and returns the sizes of all that belongs to it. The archive is
// empty for what is no chart.
func heldVersionOf(get func(string) ([]byte, error), objects map[string]int64, key string) (v heldVersion, sizes map[string]int64, err error) {
	content, err := get(key)
	if err != nil {
		return v, nil, err
	}
	var tag struct {
		Digest   string    `json:"digest"`
		PushedAt time.Time `json:"pushedAt"`
	}
	if err := json.Unmarshal(content, &tag); err != nil {
		return v, nil, err
	}
	folder := strings.Join(strings.Split(key, "/")[:2], "/")
	if content, err = get(folder + "/manifests/" + strings.Replace(tag.Digest, ":", "/", 1)); err != nil {
		return v, nil, err
	}
	_, content, _ = bytes.Cut(content, []byte("\n"))
	if digestOf(content) != tag.Digest {
		return v, nil, fmt.Errorf("what is stored as %s is %s", tag.Digest, digestOf(content))
	}
	type part struct {
		MediaType string
		Digest    string
		Size      int64
	}
	var manifest struct {
		Config part
		Layers []part
	}
	if err := json.Unmarshal(content, &manifest); err != nil {
		return v, nil, err
	}
	v.manifest, v.since = tag.Digest, tag.PushedAt
	sizes = map[string]int64{tag.Digest: int64(len(content))}
	for _, p := range append(manifest.Layers, manifest.Config) {
		if size, there := objects[folder+"/blobs/"+strings.Replace(p.Digest, ":", "/", 1)]; !there || size != p.Size {
			return v, nil, fmt.Errorf("its blob %s has %d bytes, want %d", p.Digest, size, p.Size)
		}
		sizes[p.Digest] = p.Size
		if p.MediaType == helmArchive && manifest.Config.MediaType == helmConfig {
			v.archive = p.Digest
		}
	}
	return v, sizes, nil
}

// readDownloads adds up the sum of processes that are gone and the parts that are not in it.
func (h *held) readDownloads(get func(string) ([]byte, error), objects map[string]int64) error {
	var sum struct{ Absorbed map[string]any }
	read := func(key string, header any) error {
		content, err := get(key)
		if err != nil {
			return err
		}
		zipped, err := gzip.NewReader(bytes.NewReader(content))
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		lines := bufio.NewScanner(zipped)
		if !lines.Scan() {
			return fmt.Errorf("%s is empty", key)
		}
		if err := json.Unmarshal(lines.Bytes(), header); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		for lines.Scan() {
			var n, day int64
			var hash, chart string
			if _, err := fmt.Sscanf(lines.Text(), "%d %d %s %s", &n, &day, &hash, &chart); err != nil {
				return fmt.Errorf("%s: %q: %w", key, lines.Text(), err)
			}
			h.downloads[blob{chart, "sha256:" + hash}] += n
		}
		return lines.Err()
	}
	if _, there := objects["downloads/folded"]; there {
		if err := read("downloads/folded", &sum); err != nil {
			return err
		}
	}
	for key := range objects {
		name, found := strings.CutPrefix(key, "downloads/parts/")
		if _, in := sum.Absorbed[name]; !found || in {
			continue
		}
		if err := read(key, &struct{}{}); err != nil {
			return err
		}
	}
	return nil
}

// statusDiffers says where the status of a HelmRegistry tells something else than is expected.
func statusDiffers(status v1alpha1.HelmRegistryStatus, expected map[string]expectation) error {
	if status.Inventory == nil {
		return errors.New("there is no inventory")
	}
	var versions, size, downloads int64
	for name, e := range expected {
		i := slices.IndexFunc(status.Charts, func(c v1alpha1.ChartStatus) bool { return c.Name == name })
		if i < 0 {
			return fmt.Errorf("%s is not there", name)
		}
		got := status.Charts[i]
		var pushed time.Time
		if got.LastPushed != nil {
			pushed = got.LastPushed.Time
		}
		if got.Versions != int64(e.versions) || got.LatestVersion != e.latestVersion || got.Digest != e.latest.manifest || got.AppVersion != e.latest.appVersion ||
			got.SizeBytes != e.size || got.Downloads != e.downloads || !pushed.Equal(e.lastPushed.Truncate(time.Second)) {
			return fmt.Errorf("%s is %+v, want %+v", name, got, e)
		}
		versions, size, downloads = versions+int64(e.versions), size+e.size, downloads+e.downloads
	}
	i := *status.Inventory
	if len(status.Charts) != len(expected) || i.Charts != int64(len(expected)) || i.Versions != versions || i.SizeBytes != size || i.Downloads != downloads || i.Truncated {
		return fmt.Errorf("there are %d charts in the list of %+v, want %d with %d versions, %d bytes and %d downloads", len(status.Charts), i, len(expected), versions, size, downloads)
	}
	return nil
}

// pageDiffers says where the page of a pod tells something else than is expected.
func (w *wire) pageDiffers(ctx context.Context, pod corev1.Pod, expected map[string]expectation) error {
	shown := map[string][]string{}
	for page := 1; page == 1 || len(shown) < len(expected) && page < 10; page++ {
		a, err := w.sendWithin(ctx, placeOf(pod), http.MethodGet, w.page("?page="+strconv.Itoa(page)), nil)
		if err != nil || a.status != http.StatusOK {
			return fmt.Errorf("it is answered %d, %w", a.status, err)
		}
		root, err := html.Parse(bytes.NewReader(a.body))
		if err != nil {
			return err
		}
		if page == 1 {
			if err := numbersDiffer(root, expected); err != nil {
				return err
			}
		}
		for row := range root.Descendants() {
			if row.Type != html.ElementNode || row.Data != "tr" || row.Parent.Data != "tbody" {
				continue
			}
			var cells []string
			for c := range row.ChildNodes() {
				if c.Type == html.ElementNode {
					cells = append(cells, textOf(c))
				}
			}
			name, _, _ := strings.Cut(cells[0], "\n")
			shown[name] = cells
		}
	}
	if len(shown) != len(expected) {
		return fmt.Errorf("it shows %d charts, want %d", len(shown), len(expected))
	}
	for name, e := range expected {
		want := []string{e.latestVersion, e.latest.appVersion, strconv.Itoa(e.versions), readableSize(e.size), grouped(e.downloads), e.lastPushed.UTC().Format(time.RFC3339)}
		if cells := shown[name]; len(cells) != 7 || !slices.Equal(cells[1:], want) {
			return fmt.Errorf("%s is shown as %q, want %q", name, cells, want)
		}
	}
	return nil
}

// numbersDiffer compares what stands above the list.
func numbersDiffer(root *html.Node, expected map[string]expectation) error {
	var versions int
	var size, downloads int64
	for _, e := range expected {
		versions, size, downloads = versions+e.versions, size+e.size, downloads+e.downloads
	}
	want := map[string]string{"Charts": strconv.Itoa(len(expected)), "Versions": grouped(int64(versions)), "Size": readableSize(size), "Downloads": grouped(downloads)}
	term, found := "", 0
	for n := range root.Descendants() {
		switch {
		case n.Type != html.ElementNode:
		case n.Data == "dt":
			term = textOf(n)
		case n.Data == "dd" && want[term] != "":
			found++
			if textOf(n) != want[term] {
				return fmt.Errorf("%s is shown as %q, want %q", term, textOf(n), want[term])
			}
		}
	}
	if found != len(want) {
		return fmt.Errorf("it shows %d of %d numbers", found, len(want))
	}
	return nil
}

// textOf is the text of an element: of an avatar nothing, of a time the exact one, and of paragraphs each on a line.
func textOf(n *html.Node) string {
	switch {
	case n.Type == html.TextNode:
		return n.Data
	case n.Type != html.ElementNode || n.Data == "svg":
		return ""
	}
	for _, a := range n.Attr {
		if a.Key == "datetime" {
			return a.Val
		}
	}
	text := ""
	for c := range n.ChildNodes() {
		if c.Type == html.ElementNode && c.Data == "p" {
			text += "\n"
		}
		text += textOf(c)
	}
	return strings.TrimSpace(text)
}

// readableSize is a number of bytes as the pages write it.
func readableSize(n int64) string {
	value, units := float64(n), []string{"B", "KiB", "MiB", "GiB"}
	for ; value >= 1024; units = units[1:] {
		value /= 1024
	}
	if value >= 100 || units[0] == "B" {
		return fmt.Sprintf("%.0f %s", value, units[0])
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0") + " " + units[0]
}

// grouped is a number as the pages write it, with a narrow space between each three digits.
func grouped(n int64) string {
	if n < 1000 {
		return strconv.FormatInt(n, 10)
	}
	return grouped(n/1000) + "\u202f" + fmt.Sprintf("%03d", n%1000)
}

// listed is a package as the API shows it, as far as it is compared.
type listed struct {
	Name, Version, Digest, Archive string
	AppVersion                     string    `json:"app_version"`
	StoredSize                     int64     `json:"stored_size"`
	PushedAt                       time.Time `json:"pushed_at"`
	Downloads                      int64
}

// apiDiffers says where the API of a pod tells something else than is expected.
func (w *wire) apiDiffers(ctx context.Context, pod corev1.Pod, expected map[string]expectation) error {
	charts := map[string][]listed{}
	total, seen := 1, 0
	for page := 1; seen < total; page++ {
		var body struct {
			Items []listed
			Total int
		}
		if err := w.getJSON(ctx, pod, w.packages("")+"?per_page=100&page="+strconv.Itoa(page), &body); err != nil {
			return err
		}
		for _, p := range body.Items {
			charts[p.Name] = append(charts[p.Name], p)
		}
		if len(body.Items) == 0 {
			break
		}
		total, seen = body.Total, seen+len(body.Items)
	}
	for _, name := range union(charts, expected) {
		e := expected[name]
		var lastPushed time.Time
		for _, p := range charts[name] {
			tag := strings.ReplaceAll(p.Version, "+", "_")
			if p.StoredSize != e.sizes[tag] || p.Downloads != e.versionsPulls[tag] {
				return fmt.Errorf("%s %s has %d bytes and %d downloads, want %d and %d", name, p.Version, p.StoredSize, p.Downloads, e.sizes[tag], e.versionsPulls[tag])
			}
			if p.Version == e.latestVersion && (p.Digest != e.latest.manifest || p.Archive != e.latest.archive || p.AppVersion != e.latest.appVersion) {
				return fmt.Errorf("%s %s is %+v, want %+v", name, p.Version, p, e.latest)
			}
			if p.PushedAt.After(lastPushed) {
				lastPushed = p.PushedAt
			}
		}
		if len(charts[name]) != e.versions || !lastPushed.Truncate(time.Second).Equal(e.lastPushed.Truncate(time.Second)) {
			return fmt.Errorf("%s has %d versions, the last of %s, want %d and %s", name, len(charts[name]), lastPushed, e.versions, e.lastPushed)
		}
		var all struct {
			AllVersions int64 `json:"all_versions"`
		}
		if err := w.getJSON(ctx, pod, w.packages(name+":"+e.latestVersion)+"/downloads", &all); err != nil || all.AllVersions != e.downloads {
			return fmt.Errorf("%s has %d downloads, want %d (%w)", name, all.AllVersions, e.downloads, err)
		}
	}
	return nil
}

// indexDiffers says where the index of a pod for helm has another version, or one less.
func (w *wire) indexDiffers(ctx context.Context, pod corev1.Pod, expected map[string]expectation, charts map[string]map[string]stored) error {
	want := map[string]string{}
	for chart := range expected {
		for tag, v := range charts[chart] {
			want[chart+" "+strings.ReplaceAll(tag, "_", "+")] = v.archive
		}
	}
	var index struct {
		Entries map[string][]struct{ Version, Digest string }
	}
	if err := w.getJSON(ctx, pod, w.classic("")+"/index.yaml", &index); err != nil {
		return err
	}
	got := map[string]string{}
	for name, versions := range index.Entries {
		for _, v := range versions {
			got[name+" "+v.Version] = "sha256:" + strings.TrimPrefix(v.Digest, "sha256:")
		}
	}
	for _, entry := range union(want, got) {
		if want[entry] != got[entry] {
			return fmt.Errorf("%s is %q, want %q", entry, got[entry], want[entry])
		}
	}
	return nil
}

func (w *wire) getJSON(ctx context.Context, pod corev1.Pod, path string, into any) error {
	a, err := w.sendWithin(ctx, placeOf(pod), http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if a.status != http.StatusOK {
		return fmt.Errorf("%s is answered %d %.200s", path, a.status, a.body)
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
