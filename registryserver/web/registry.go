package web

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/access/policy"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/web/snippets"
)

const (
	// chartsPerPage and versionsPerPage are rows of a table.
	chartsPerPage   = 50
	versionsPerPage = 100
	// maxSearchBytes bounds what is searched for.
	maxSearchBytes = 200
)

// homePage shows the registries that this server has.
type homePage struct {
	// Known is false where the viewer must sign in to see more than the name.
	Known    bool
	Totals   inventory.Totals
	Building bool
}

func (h *Handler) home(w http.ResponseWriter, r *request) error {
	p := homePage{Known: r.viewer.SignedIn || h.o.Access.Public()}
	if p.Known {
		p.Totals, p.Building = h.o.Inventory.Totals(h.may(r.viewer)), h.o.Inventory.Building()
	}
	return h.render(w, r, http.StatusOK, "home", "Registries", p)
}

// releasesPage lists the charts.
type releasesPage struct {
	Totals   inventory.Totals
	Building bool
	Query    string
	Sort     string
	Charts   []inventory.Chart
	// Found is how many there are on all pages.
	Found int
	Pages pages
}

// pages leads through the parts of a long list.
type pages struct {
	Number, Last, First, Through int
	// Previous and Next are addresses; empty where there is none.
	Previous, Next string
}

// part returns the bounds of the page of a list of so many that the query asks for.
func (r *request) part(of, size int) (from, to int, p pages) {
	p.Last = max(1, (of+size-1)/size)
	p.Number, _ = strconv.Atoi(r.URL.Query().Get("page"))
	p.Number = min(max(1, p.Number), p.Last)
	from = (p.Number - 1) * size
	to = min(of, from+size)
	p.First, p.Through = min(from+1, to), to
	at := func(number int) string {
		q := r.URL.Query()
		q.Set("page", strconv.Itoa(number))
		return "?" + q.Encode()
	}
	if p.Number > 1 {
		p.Previous = at(p.Number - 1)
	}
	if p.Number < p.Last {
		p.Next = at(p.Number + 1)
	}
	return from, to, p
}

// orders are how charts can be sorted. The first is that of the inventory.
var orders = map[string]func(a, b *inventory.Chart) int{
	"updated":   func(a, b *inventory.Chart) int { return b.LastPushed.Compare(a.LastPushed) },
	"downloads": func(a, b *inventory.Chart) int { return cmp.Compare(b.Downloads, a.Downloads) },
	"size":      func(a, b *inventory.Chart) int { return cmp.Compare(b.SizeBytes, a.SizeBytes) },
	"versions":  func(a, b *inventory.Chart) int { return cmp.Compare(b.Versions, a.Versions) },
}

func (h *Handler) releases(w http.ResponseWriter, r *request) error {
	if r.URL.Path != h.registryPath() {
		http.Redirect(w, r.Request, h.registryPath(), http.StatusMovedPermanently)
		return nil
	}
	query := r.URL.Query()
	p := releasesPage{Building: h.o.Inventory.Building(), Query: clip(strings.TrimSpace(query.Get("q")), maxSearchBytes), Sort: "name"}
	may := h.may(r.viewer)
	p.Totals = h.o.Inventory.Totals(may)
	if err := h.list(r.Context(), func() { p.find(r, h.o.Inventory.Charts(may)) }); err != nil {
		return err
	}
	return h.render(w, r, http.StatusOK, "releases", h.displayName(), p)
}

// find puts on the page what is asked for of all charts.
func (p *releasesPage) find(r *request, charts []inventory.Chart) {
	if words := strings.ToLower(p.Query); words != "" {
		charts = slices.DeleteFunc(charts, func(c inventory.Chart) bool {
			return !strings.Contains(c.Name, words) && !strings.Contains(strings.ToLower(c.Latest.Description), words)
		})
	}
	// Their addresses are sorted: a chart is large to be moved about.
	sorted := make([]*inventory.Chart, len(charts))
	for i := range charts {
		sorted[i] = &charts[i]
	}
	name := r.URL.Query().Get("sort")
	if order, ok := orders[name]; ok {
		p.Sort = name
		slices.SortStableFunc(sorted, order)
	}
	var from, to int
	p.Found = len(sorted)
	from, to, p.Pages = r.part(len(sorted), chartsPerPage)
	for _, c := range sorted[from:to] {
		p.Charts = append(p.Charts, *c)
	}
}

// SortURL is the address of the list in another order.
func (p releasesPage) SortURL(order string) string {
	q := url.Values{"sort": {order}}
	if p.Query != "" {
		q.Set("q", p.Query)
	}
	return "?" + q.Encode()
}

func (h *Handler) displayName() string { return cmp.Or(h.o.About().DisplayName, h.o.Registry) }

func (h *Handler) clients() snippets.Registry {
	return snippets.Registry{
		Host: h.o.ExternalURL.Host, Path: h.o.Organization + "/" + h.o.Registry, PlainHTTP: h.o.ExternalURL.Scheme == "http",
		Private: !h.o.Access.Public(), Authority: h.o.About().Authority,
	}
}

// publishPage tells how to push.
type publishPage struct {
	Snippets []snippets.Snippet
	// Token is shown once, to who asked for it. Login is the command with it.
	Token, Login string
	Expires      time.Time
}

func (h *Handler) publish(w http.ResponseWriter, r *request) error {
	p := publishPage{Snippets: h.clients().Publish()}
	if r.Method == http.MethodPost {
		r.seen.Action = audit.Exchange
		w.Header().Set("Cache-Control", "no-store")
		if !r.viewer.Writes {
			return &statusError{http.StatusForbidden, "Sign in with a token that has write_packages to make one that pushes."}
		}
		session, err := h.o.Access.Temporary(r.viewer.identity)
		if err != nil {
			return err
		}
		p.Token, p.Login, p.Expires = session.Token, h.clients().LoginWith(session.Token).Text, h.o.Now().Add(session.Lifetime)
	}
	return h.render(w, r, http.StatusOK, "publish", "Publish to "+h.displayName(), p)
}

// accessPageData shows who may do what.
type accessPageData struct {
	State    string
	Tokens   []access.TokenState
	Policies []access.PolicyState
	// Claims are what was tried, Trials what came of it, and Problem why nothing did.
	Claims, Problem string
	Trials          []access.Trial
	Tried           bool
	Now             time.Time
}

// maxClaimsBytes bounds the form of the tester.
const maxClaimsBytes = 64 << 10

func (h *Handler) access(w http.ResponseWriter, r *request) error {
	// Whose token is confined to some charts has no business with the tokens of the others.
	if !r.viewer.Manages {
		return errNotFound
	}
	p := accessPageData{
		Tokens: h.o.Access.Tokens(), Policies: h.o.Access.Policies(), Now: h.o.Now(),
		Claims: "{\n  \"iss\": \"https://token.actions.githubusercontent.com\",\n  \"repository\": \"acme/web\",\n  \"ref\": \"refs/heads/main\"\n}",
	}
	if r.Method == http.MethodPost {
		form, err := readForm(w, r, maxClaimsBytes)
		if err != nil {
			return err
		}
		p.Claims = form.Get("claims")
		claims, err := policy.ParseClaims([]byte(p.Claims))
		if err != nil {
			p.Problem = err.Error()
		} else {
			p.Tried, p.Trials = true, h.o.Access.Try(claims)
		}
	}
	return h.render(w, r, http.StatusOK, "access", "Access to "+h.displayName(), p)
}

// clip is at most so many bytes of s, which it does not keep in memory.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.Clone(strings.ToValidUTF8(s[:most], ""))
}
