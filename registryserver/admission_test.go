package registryserver

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/ociapi"
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
		want := func(ok bool, r *http.Request, identity string, load ociapi.Load) func() {
			t.Helper()
			leave, got := a.admit(r, identity, load)
			if got != ok {
				t.Fatalf("%s of %q from %s: %v", map[ociapi.Load]string{ociapi.Upload: "upload", ociapi.Listing: "listing"}[load], identity, r.RemoteAddr, got)
			}
			return leave
		}
		first := want(true, here, "a", ociapi.Upload)
		want(true, here, "a", ociapi.Upload)
		want(false, here, "a", ociapi.Upload)
		want(true, here, "a", ociapi.Light)
		want(true, here, "b", ociapi.Upload)
		want(false, here, "b", ociapi.Upload)
		// One who waits gets the place of one who leaves.
		go func() {
			time.Sleep(placePatience / 2)
			first()
		}()
		want(true, here, "b", ociapi.Upload)
		// By address where nobody has logged in, of which a client may have many.
		want(true, here, "", ociapi.Listing)
		want(false, from("192.0.2.1:2000"), "", ociapi.Listing)
		want(true, from("192.0.2.2:1000"), "", ociapi.Listing)

		time.Sleep(time.Minute)
		for range 200 {
			want(true, here, "c", ociapi.Light)
		}
		want(false, here, "c", ociapi.Light)
		want(true, here, "d", ociapi.Light)
		time.Sleep(10 * time.Millisecond)
		want(true, here, "c", ociapi.Light)

		for range failedLoginsBurst {
			want(true, here, "", ociapi.FailedLogin)
		}
		want(false, here, "", ociapi.FailedLogin)
		want(true, here, "a", ociapi.Light)
		want(true, from("192.0.2.2:1000"), "", ociapi.FailedLogin)
	})
}

func TestRequestsAreNotBoundedByDefault(t *testing.T) {
	a := newAdmission(Config{}.WithDefaults().Limits)
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/v2/", nil)
	for range 100_000 {
		if _, ok := a.admit(r, "a", ociapi.Light); !ok {
			t.Fatal("a request was sent away")
		}
	}
}
