package ociapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// modelled is what one repository should hold.
type modelled struct {
	blobs map[string]bool
	// manifests are their contents; tags say which.
	manifests map[string]bool
	tags      map[string]string
}

// session is what an upload should hold.
type session struct {
	repository, location, content string
	ended                         bool
}

// machine does a program, of which each five bytes are a request, on the server and on the model.
type machine struct {
	*registry
	step         []byte
	repositories map[string]*modelled
	sessions     []*session
	log          []string
}

// FuzzHTTP compares what the whole API answers to random sequences of requests with a model in memory.
func FuzzHTTP(f *testing.F) {
	var all []byte
	for i := range byte(16) {
		all = append(all, i, 0, 0, 0, 0, i, 1, 1, 1, 1)
	}
	uploads := []byte{
		1, 0, 0, 0, 0, 2, 0, 1, 0, 0, 2, 0, 2, 1, 0, 2, 0, 0, 2, 0, 5, 0, 0, 0, 0, 3, 0, 0, 0, 0, 6, 0, 0, 0, 0, 3, 0, 0, 0, 0, 2, 0, 0, 0, 0,
		1, 1, 0, 0, 0, 3, 1, 0, 3, 0, 1, 1, 0, 0, 0, 2, 2, 0, 0, 0, 4, 2, 0, 0, 0, 5, 2, 0, 0, 0, 1, 0, 0, 0, 0, 3, 3, 4, 0, 0, 5, 3, 0, 0, 0,
	}
	pushes := []byte{
		0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 9, 0, 0, 0, 1, 0, 0, 3, 0, 0, 9, 0, 0, 0, 0, 9, 0, 0, 0, 1, 9, 0, 1, 0, 1, 9, 0, 0, 3, 1, 14, 0, 0, 0, 0,
		10, 0, 0, 0, 1, 10, 0, 0, 0, 0, 8, 1, 0, 0, 0, 8, 1, 0, 3, 0, 9, 1, 0, 3, 0, 13, 0, 0, 0, 0, 11, 0, 0, 0, 0, 12, 0, 0, 0, 0, 14, 1, 0, 0, 0,
		12, 1, 0, 3, 0, 14, 1, 0, 0, 0, 7, 0, 0, 0, 0, 9, 0, 0, 0, 1, 10, 0, 0, 0, 1,
	}
	for _, seed := range [][]byte{all, uploads, pushes, append(slices.Clone(pushes), all...)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		program = program[:min(len(program), 250)]
		m := &machine{registry: newRegistry(t, wire.Private), repositories: map[string]*modelled{}}
		for _, name := range []string{"web", "shop/web"} {
			m.repositories[name] = &modelled{map[string]bool{}, map[string]bool{}, map[string]string{}}
		}
		steps := []func(){
			m.pushBlob, m.begin, m.chunk, m.finish, m.cancel, m.status, m.getBlob, m.deleteBlob, m.mount,
			m.putManifest, m.getManifest, m.deleteTag, m.deleteManifest, m.list, m.referrers, m.nonsense,
		}
		for step := range slices.Chunk(program, 5) {
			m.step = step
			if steps[m.next()%len(steps)](); t.Failed() {
				break
			}
		}
		for name := range m.repositories {
			m.compare(name)
		}
		if t.Failed() {
			t.Logf("after:\n%s", strings.Join(m.log, "\n"))
		}
	})
}

func (m *machine) next() int {
	if len(m.step) == 0 {
		return 0
	}
	b := m.step[0]
	m.step = m.step[1:]
	return int(b)
}

func (m *machine) pick(of ...string) string { return of[m.next()%len(of)] }

func (m *machine) repository() (string, *modelled) {
	name := m.pick("web", "shop/web")
	return name, m.repositories[name]
}

func (m *machine) content() string { return m.pick("red", "green", "blue", "{}", "") }

// expect does a request that must be answered with one of the statuses, and returns status and body.
func (m *machine) expect(c call, statuses ...int) (*http.Response, string) {
	m.t.Helper()
	answer := m.do(c)
	body := read(m.t, answer)
	m.log = append(m.log, fmt.Sprintf("%s %s %.60q: %d", c.method, c.path, c.body, answer.StatusCode))
	if !slices.Contains(statuses, answer.StatusCode) {
		m.t.Errorf("%s %s: %d %s, want %d", c.method, c.path, answer.StatusCode, body, statuses)
	}
	return answer, body
}

// where is the status for what is there, or is not.
func where(there bool, status int) int {
	if there {
		return status
	}
	return http.StatusNotFound
}

func pathOf(name, rest string) string { return "/v2/acme/charts/" + name + rest }

func (m *machine) pushBlob() {
	name, r := m.repository()
	content := m.content()
	m.expect(call{method: "POST", path: pathOf(name, "/blobs/uploads/?digest="+digestOf(content)), body: content}, http.StatusCreated)
	r.blobs[content] = true
}

func (m *machine) begin() {
	name, _ := m.repository()
	if len(m.sessions) == 4 {
		return
	}
	answer, _ := m.expect(call{method: "POST", path: pathOf(name, "/blobs/uploads/")}, http.StatusAccepted)
	m.sessions = append(m.sessions, &session{repository: name, location: answer.Header.Get("Location")})
}

func (m *machine) session() *session {
	i := m.next()
	if len(m.sessions) == 0 {
		return nil
	}
	return m.sessions[i%len(m.sessions)]
}

func (m *machine) chunk() {
	s := m.session()
	chunk, from := m.content(), m.next()
	if s == nil {
		return
	}
	c := call{method: "PATCH", path: s.location, body: chunk}
	offset := len(s.content)
	if from%3 == 1 {
		offset += 1 + from%5
	}
	if from%3 > 0 && chunk != "" {
		c.header = map[string]string{"Content-Range": fmt.Sprintf("%d-%d", offset, offset+len(chunk)-1)}
	}
	switch {
	case s.ended:
		m.expect(c, http.StatusNotFound)
	case c.header != nil && offset != len(s.content):
		answer, _ := m.expect(c, http.StatusRequestedRangeNotSatisfiable)
		m.stands(answer, s)
	default:
		answer, _ := m.expect(c, http.StatusAccepted)
		s.content += chunk
		m.stands(answer, s)
	}
}

// stands checks what an answer says of where an upload stands.
func (m *machine) stands(answer *http.Response, s *session) {
	m.t.Helper()
	if got, want := answer.Header.Get("Range"), fmt.Sprintf("0-%d", max(len(s.content)-1, 0)); got != want {
		m.t.Errorf("the upload stands at %s, want %s", got, want)
	}
}

func (m *machine) finish() {
	s := m.session()
	rest, wrong := m.content(), m.next()%4 == 3
	if s == nil {
		return
	}
	d := digestOf(s.content + rest)
	if wrong {
		d = digestOf("something else")
	}
	c := call{method: "PUT", path: s.location + "?digest=" + d, body: rest}
	switch {
	case s.ended:
		m.expect(c, http.StatusNotFound)
	case wrong:
		m.expect(c, http.StatusBadRequest)
		s.ended = true
	default:
		m.expect(c, http.StatusCreated)
		m.repositories[s.repository].blobs[s.content+rest] = true
		// A session to which nothing was ever added leaves no trace, and so does not know its end.
		s.ended = s.content != ""
	}
}

func (m *machine) cancel() {
	if s := m.session(); s != nil {
		m.expect(call{method: "DELETE", path: s.location}, where(!s.ended, http.StatusNoContent))
		s.ended = true
	}
}

func (m *machine) status() {
	if s := m.session(); s != nil {
		answer, _ := m.expect(call{method: "GET", path: s.location}, where(!s.ended, http.StatusNoContent))
		if !s.ended {
			m.stands(answer, s)
		}
	}
}

func (m *machine) getBlob() {
	name, r := m.repository()
	content, method := m.content(), m.pick("GET", "HEAD")
	_, body := m.expect(call{method: method, path: pathOf(name, "/blobs/"+digestOf(content))}, where(r.blobs[content], http.StatusOK))
	if method == "GET" && r.blobs[content] && body != content {
		m.t.Errorf("the blob %q is %q", content, body)
	}
}

func (m *machine) deleteBlob() {
	name, r := m.repository()
	content := m.content()
	m.expect(call{method: "DELETE", path: pathOf(name, "/blobs/"+digestOf(content))}, where(r.blobs[content], http.StatusAccepted))
	delete(r.blobs, content)
}

func (m *machine) mount() {
	name, r := m.repository()
	from, content := m.pick("web", "shop/web"), m.content()
	want := http.StatusAccepted
	if r.blobs[content] || m.repositories[from].blobs[content] {
		want = http.StatusCreated
		defer func() { r.blobs[content] = true }()
	}
	m.expect(call{method: "POST", path: pathOf(name, "/blobs/uploads/?mount="+digestOf(content)+"&from=acme/charts/"+from)}, want)
}

// manifest is one of a few: with a layer, and perhaps with a subject.
func (m *machine) manifest() (content, layer string, hasSubject bool) {
	layer = m.pick("red", "green", "blue")
	hasSubject = m.next()%4 == 3
	content = strings.Replace(manifestOf(layer), helmConfig, "text/plain", 1)
	if hasSubject {
		content = strings.Replace(content, `"layers"`, fmt.Sprintf(`"subject":{"mediaType":%q,"digest":%q,"size":7},"layers"`, ociManifest, digestOf("subject")), 1)
	}
	return content, layer, hasSubject
}

func (m *machine) tag() string { return m.pick("1.0.0", "1.0.1", "sha256-x") }

func (m *machine) putManifest() {
	name, r := m.repository()
	content, layer, hasSubject := m.manifest()
	reference, tag := digestOf(content), ""
	if m.next()%2 == 1 {
		tag = m.tag()
		reference = tag
	}
	c := call{method: "PUT", path: pathOf(name, "/manifests/"+reference), body: content, header: map[string]string{"Content-Type": ociManifest}}
	stands, tagged := r.tags[tag]
	switch {
	case tagged && stands != content && tag != "sha256-x":
		m.expect(c, http.StatusConflict)
	case !r.blobs["{}"] || !r.blobs[layer]:
		m.expect(c, http.StatusBadRequest)
	default:
		answer, _ := m.expect(c, http.StatusCreated)
		if got := answer.Header.Get("Docker-Content-Digest"); got != digestOf(content) {
			m.t.Errorf("the manifest was stored as %s", got)
		}
		if said := answer.Header.Get("OCI-Subject") != ""; said != hasSubject {
			m.t.Errorf("OCI-Subject is there: %v", said)
		}
		r.manifests[content] = true
		if tag != "" {
			r.tags[tag] = content
		}
	}
}

func (m *machine) getManifest() {
	name, r := m.repository()
	content, _, _ := m.manifest()
	reference, want := digestOf(content), content
	there := r.manifests[content]
	if m.next()%2 == 1 {
		reference = m.tag()
		want, there = r.tags[reference]
	}
	answer, body := m.expect(call{method: "GET", path: pathOf(name, "/manifests/"+reference)}, where(there, http.StatusOK))
	if there && (body != want || answer.Header.Get("Content-Type") != ociManifest) {
		m.t.Errorf("%s is %q", reference, body)
	}
}

func (m *machine) deleteTag() {
	name, r := m.repository()
	tag := m.tag()
	_, there := r.tags[tag]
	m.expect(call{method: "DELETE", path: pathOf(name, "/manifests/"+tag)}, where(there, http.StatusAccepted))
	delete(r.tags, tag)
}

func (m *machine) deleteManifest() {
	name, r := m.repository()
	content, _, _ := m.manifest()
	m.expect(call{method: "DELETE", path: pathOf(name, "/manifests/"+digestOf(content))}, where(r.manifests[content], http.StatusAccepted))
	delete(r.manifests, content)
	maps.DeleteFunc(r.tags, func(_, stands string) bool { return stands == content })
}

func (m *machine) list() {
	name, _ := m.repository()
	m.compare(name)
}

// compare compares the tags of a repository with the model.
func (m *machine) compare(name string) {
	m.t.Helper()
	r := m.repositories[name]
	_, body := m.expect(call{method: "GET", path: pathOf(name, "/tags/list")}, where(len(r.manifests) > 0, http.StatusOK))
	if len(r.manifests) == 0 {
		return
	}
	var got struct{ Tags []string }
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		m.t.Error(err)
	}
	if want := slices.Sorted(maps.Keys(r.tags)); !slices.Equal(got.Tags, want) {
		m.t.Errorf("the tags of %s are %v, want %v", name, got.Tags, want)
	}
}

func (m *machine) referrers() {
	name, r := m.repository()
	_, body := m.expect(call{method: "GET", path: pathOf(name, "/referrers/"+digestOf("subject"))}, http.StatusOK)
	var index struct{ Manifests []struct{ Digest string } }
	if err := json.Unmarshal([]byte(body), &index); err != nil {
		m.t.Error(err)
	}
	var got, want []string
	for _, d := range index.Manifests {
		got = append(got, d.Digest)
	}
	for content := range r.manifests {
		if strings.Contains(content, `"subject"`) {
			want = append(want, digestOf(content))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		m.t.Errorf("the referrers are %v, want %v", got, want)
	}
}

// nonsense changes nothing and is refused, whatever it is.
func (m *machine) nonsense() {
	method, path := m.pick("PUT", "PATCH", "POST", "BREW"), m.pick("/blobs/uploads/x", "/tags/list", "/blobs/x", "/manifests/-", "/referrers/x")
	m.expect(call{method: method, path: pathOf("web", path), body: "nonsense"}, http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed)
}
