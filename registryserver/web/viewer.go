package web

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	// secureCookie is bound to the host and to TLS by its name (RFC 6265bis section 4.1.3.2).
	secureCookie = "__Host-chartroom"
	// plainCookie is that of a browser which reaches the server without TLS, on the same machine.
	plainCookie = "chartroom"
	// maxSignInBytes bounds the form, and is more than a token has.
	maxSignInBytes = 32 << 10
)

// viewer is who looks at a page.
type viewer struct {
	identity access.Identity
	// SignedIn is false of who has no rights but those that everybody has.
	SignedIn bool
	// Writes is true of who may push any chart, Manages of who may push all.
	Writes, Manages bool
}

// Name says who it is.
func (v viewer) Name() string {
	if v.identity.Subject != "" {
		return v.identity.Subject
	}
	if v.identity.Name != "" {
		return v.identity.Name
	}
	return v.identity.ID
}

// may says which charts the viewer is allowed to read; nil: all.
func (h *Handler) may(v viewer) func(chart string) bool {
	if h.o.Access.ReadsAll(v.identity) {
		return nil
	}
	return func(chart string) bool { return h.mayRead(v, chart) }
}

func (h *Handler) mayRead(v viewer, chart string) bool {
	return h.o.Access.Authorize(v.identity, wire.ReadPackages, chart).Allowed
}

// viewerOf tells who has sent a request. A cookie that is no longer good is taken away.
func (h *Handler) viewerOf(w http.ResponseWriter, r *request) viewer {
	anonymous := viewer{identity: access.Identity{ID: "anonymous", Anonymous: true}}
	name, _ := h.cookieName(r.Request)
	cookies := r.CookiesNamed(name)
	if len(cookies) == 0 {
		return anonymous
	}
	w.Header().Set("Cache-Control", "no-store")
	identity, err := h.o.Access.Resume(cookies[0].Value)
	if err != nil {
		h.setCookie(w, r.Request, "", -1)
		return anonymous
	}
	return viewer{
		identity: identity, SignedIn: true,
		Writes: slices.Contains(h.o.Access.Scopes(identity), wire.WritePackages), Manages: h.o.Access.WritesAll(identity),
	}
}

// cookieName is that of the cookie for a request; false where none may be set, as others could read it on its way.
func (h *Handler) cookieName(r *http.Request) (string, bool) {
	if r.TLS != nil || h.o.ExternalURL.Scheme == "https" {
		return secureCookie, true
	}
	// The host is what the browser connects to: none that is in between can read what goes to the machine itself.
	return plainCookie, isLoopback(hostname(r.Host))
}

func hostname(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return strings.Trim(hostport, "[]")
	}
	return host
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (h *Handler) setCookie(w http.ResponseWriter, r *http.Request, value string, maxAge int) {
	name, ok := h.cookieName(r)
	if !ok {
		return
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Without TLS it is set for this machine alone: see cookieName.
		Name: name, Value: value, Path: "/", MaxAge: maxAge, Secure: name == secureCookie, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}

// signInForm is what the page shows.
type signInForm struct {
	Action, Problem string
	// Possible is false where the browser is connected in a way in which others could read the token.
	Possible bool
}

func (h *Handler) signIn(w http.ResponseWriter, r *request) error {
	w.Header().Set("Cache-Control", "no-store")
	_, possible := h.cookieName(r.Request)
	form := signInForm{Action: r.URL.RequestURI(), Possible: possible}
	if r.Method != http.MethodPost {
		return h.render(w, r, http.StatusOK, "signin", "Sign in", form)
	}
	r.seen.Action = audit.Exchange
	if !possible {
		return &statusError{http.StatusForbidden, "One can sign in over HTTPS alone, or on the machine that the registry runs on."}
	}
	if !h.o.AllowSignIn(r.Request) {
		return errTooMany
	}
	values, err := readForm(w, r, maxSignInBytes)
	if err != nil {
		return err
	}
	session, err := h.o.Access.SignIn(r.Context(), strings.TrimSpace(values.Get("token")))
	if err != nil {
		if form.Problem, err = signInProblem(err, r.seen); err != nil {
			return err
		}
		return h.render(w, r, http.StatusForbidden, "signin", "Sign in", form)
	}
	r.seen.Identity = session.Identity
	h.setCookie(w, r.Request, session.Token, int(session.Lifetime.Seconds()))
	http.Redirect(w, r.Request, h.ownPage(r.URL.Query().Get("next")), http.StatusSeeOther)
	return nil
}

// signInProblem says what is wrong with a token. Why one is refused is for the log.
func signInProblem(err error, seen *audit.Observation) (string, error) {
	var refused *access.RefusedError
	if errors.As(err, &refused) {
		seen.Credential, seen.Reason = refused.Token, refused.Reason
	}
	switch {
	case errors.Is(err, access.ErrUnauthenticated):
		return "The token is not valid here: it is wrong, expired or revoked, or no policy admits it.", nil
	case errors.Is(err, access.ErrSessionParent):
		return "A session token cannot sign in: use the registry token or OIDC token that it came from.", nil
	case errors.Is(err, access.ErrTooLarge):
		return "The token has more claims than a cookie can hold: use a registry token.", nil
	}
	return "", err
}

func (h *Handler) signOut(w http.ResponseWriter, r *request) error {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Clear-Site-Data", `"cache"`)
	h.setCookie(w, r.Request, "", -1)
	http.Redirect(w, r.Request, "/", http.StatusSeeOther)
	return nil
}

// readForm reads the body of at most so many bytes. Nothing in the address counts: addresses end up in logs.
func readForm(w http.ResponseWriter, r *request, most int64) (url.Values, error) {
	r.Body = http.MaxBytesReader(w, r.Body, most)
	if err := r.ParseForm(); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, &statusError{http.StatusRequestEntityTooLarge, "What was sent is too large."}
		}
		return nil, &statusError{http.StatusBadRequest, "What was sent cannot be read as a form."}
	}
	return r.PostForm, nil
}
