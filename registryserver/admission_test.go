package registryserver

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/face"
	"github.com/chartroom-dev/chartroom/registryserver/web"
)

func TestAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(LimitsConfig{Uploads: 3, UploadsPerClient: 2, Listings: 2, ListingsPerClient: 1, RequestsPerSecond: 100})
		from := func(address string) *http.Request {
			r := httptest.NewRequestWithContext(t.Context(), "GET", "/v2/", nil)
			r.RemoteAddr = address
			return r
		}
		here := from("192.0.2.1:1000")
		want := func(ok bool, r *http.Request, identity string, load face.Load) func() {
			t.Helper()
			leave, got := a.admit(r, identity, load)
			if got != ok {
				t.Fatalf("%s of %q from %s: %v", map[face.Load]string{face.Upload: "upload", face.Listing: "listing"}[load], identity, r.RemoteAddr, got)
			}
			return leave
		}
		first := want(true, here, "a", face.Upload)
		want(true, here, "a", face.Upload)
		want(false, here, "a", face.Upload)
		want(true, here, "a", face.Light)
		want(true, here, "b", face.Upload)
		want(false, here, "b", face.Upload)
		// One who waits gets the place of one who leaves.
		go func() {
			time.Sleep(placePatience / 2)
			first()
		}()
		want(true, here, "b", face.Upload)
		// By address where nobody has logged in, of which a client may have many.
		want(true, here, "", face.Listing)
		want(false, from("192.0.2.1:2000"), "", face.Listing)
		want(true, from("192.0.2.2:1000"), "", face.Listing)

		time.Sleep(time.Minute)
		for range 200 {
			want(true, here, "c", face.Light)
		}
		want(false, here, "c", face.Light)
		want(true, here, "d", face.Light)
		time.Sleep(10 * time.Millisecond)
		want(true, here, "c", face.Light)

		for range failedLoginsBurst {
			want(true, here, "", face.FailedLogin)
		}
		want(false, here, "", face.FailedLogin)
		want(true, here, "a", face.Light)
		want(true, from("192.0.2.2:1000"), "", face.FailedLogin)
	})
}

func TestRequestsAreNotBoundedByDefault(t *testing.T) {
	a := newAdmission(Config{}.WithDefaults().Limits)
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/v2/", nil)
	for range 100_000 {
		if _, ok := a.admit(r, "a", face.Light); !ok {
			t.Fatal("a request was sent away")
		}
	}
}

// Pages with texts have places of their own, and who holds them keeps nobody from lists, nor the other way round.
func TestAdmissionOfPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(LimitsConfig{Uploads: 1, UploadsPerClient: 1, Listings: 1, ListingsPerClient: 1, RequestsPerSecond: 100})
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/acme/charts", nil)
		r.RemoteAddr = "192.0.2.1:1000"
		want := func(ok bool, identity string, load web.Load) func() {
			t.Helper()
			leave, got := a.admitPage(r, identity, load)
			if got != ok {
				t.Fatalf("load %d of %q: %v", load, identity, got)
			}
			return leave
		}
		var leave func()
		for range textsPerClient {
			leave = want(true, "", web.Text)
		}
		want(false, "", web.Text)
		want(true, "a", web.Text)
		want(true, "", web.Listing)
		want(false, "", web.Listing)
		want(true, "", web.Light)
		leave()
		want(true, "", web.Text)
		time.Sleep(time.Minute)
		for range 200 {
			want(true, "b", web.Light)
		}
		want(false, "b", web.Text)
	})
}
