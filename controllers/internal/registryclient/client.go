// Package registryclient talks to the admin port of registry pods: TLS 1.3 with certificates on both sides, one pod at
// a time, everything bounded.
package registryclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// AdminPort is the port of the admin listener in a registry pod.
const AdminPort = "5443"

const (
	// timeout bounds one request, connection and handshake included.
	timeout = time.Second
	// inventoryTimeout bounds one that a pod may answer late.
	inventoryTimeout = wire.InventoryWait + 5*time.Second
	// maxETagBytes bounds the name that a pod gives an inventory.
	maxETagBytes = 256
	// maxAnswerBytes bounds an answer's body. About and AccessState have a few hundred bytes; Uses of as many tokens as a
	// registry can have, used all of them, has less than this, and so has About with every issuer that a snapshot may name,
	// each of them in trouble, and an Inventory of as many charts as it may describe.
	maxAnswerBytes = 256 << 10
	// idleTimeout is how long a connection is kept for the next request.
	idleTimeout = 90 * time.Second
	// trustFor is how long certificates are used without asking whether they were renewed, which is done long before they
	// end. A request that fails asks at once.
	trustFor = time.Minute
)

// ErrNoInventory is an error of Inventory: the pod's program is older than inventories are.
var ErrNoInventory = errors.New("the pod does not know what it holds")

// Errors of PushAccess: the pod answered, and did not take the snapshot.
var (
	// ErrNewer: the pod enforces a snapshot of a higher revision, or another one of the same revision.
	ErrNewer = errors.New("the pod enforces a newer access snapshot")
	// ErrRefused: the pod cannot read the snapshot.
	ErrRefused = errors.New("the pod refused the access snapshot")
)

// ClientTLS returns the operator's side of TLS towards a server of that name: the client certificate, and the authority
// that the server's certificate must come from.
type ClientTLS func(ctx context.Context, serverName string) (*tls.Config, error)

// Dial opens a connection to an address, host:port.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Client asks pods. Its methods may be called from many goroutines.
type Client struct {
	clientTLS ClientTLS
	dial      Dial

	mu         sync.Mutex
	transports map[types.NamespacedName]*transport
}

// transport keeps the connections to the pods of one registry.
type transport struct {
	*http.Transport
	// asked is when the certificates were last asked for; zero when they are to be asked for again.
	asked time.Time
}

// New returns a client. dial nil means the network.
func New(clientTLS ClientTLS, dial Dial) *Client {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	// A request that may be answered late does not wait as long for a pod that cannot be reached.
	within := func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return dial(ctx, network, address)
	}
	return &Client{clientTLS: clientTLS, dial: within, transports: map[types.NamespacedName]*transport{}}
}

// About asks the pod with an IP address what it is and enforces.
func (c *Client) About(ctx context.Context, registry types.NamespacedName, ip string) (wire.About, error) {
	var about wire.About
	status, err := c.do(ctx, registry, ip, http.MethodGet, wire.PathAbout, nil, &about)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("asking the pod at %s about itself: it answered %d", ip, status)
	}
	return about, err
}

// Uses asks the pod with an IP address which tokens it has accepted.
func (c *Client) Uses(ctx context.Context, registry types.NamespacedName, ip string) (wire.Uses, error) {
	var uses wire.Uses
	status, err := c.do(ctx, registry, ip, http.MethodGet, wire.PathUses, nil, &uses)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("asking the pod at %s which tokens it has accepted: it answered %d", ip, status)
	}
	return uses, err
}

// Inventory asks the pod with an IP address what the registry holds. With the ETag of its last answer it waits up to
// [wire.InventoryWait] for another, and returns nil where there is none; etag is empty for an answer at once. It returns the
// answer's ETag, too. An ErrNoInventory is a pod's that cannot tell.
func (c *Client) Inventory(ctx context.Context, registry types.NamespacedName, ip, etag string) (*wire.Inventory, string, error) {
	ctx, cancel := context.WithTimeout(ctx, inventoryTimeout)
	defer cancel()
	request, err := newRequest(ctx, ip, http.MethodGet, wire.PathInventory, nil)
	if err != nil {
		return nil, "", err
	}
	if etag != "" {
		request.Header.Set("If-None-Match", etag)
	}
	inventory := &wire.Inventory{}
	status, header, err := c.exchange(registry, request, inventory)
	switch {
	case err != nil:
		return nil, "", err
	case status == http.StatusNotModified && etag != "":
		return nil, etag, nil
	case status == http.StatusNotFound:
		return nil, "", ErrNoInventory
	case status != http.StatusOK:
		return nil, "", fmt.Errorf("asking the pod at %s what the registry holds: it answered %d", ip, status)
	}
	if etag = header.Get("ETag"); len(etag) > maxETagBytes {
		return nil, "", fmt.Errorf("asking the pod at %s what the registry holds: its ETag has more than %d bytes", ip, maxETagBytes)
	}
	return inventory, etag, nil
}

// PushAccess sends a snapshot, as [wire.Access.Encode] wrote it, to the pod with an IP address. It returns what the pod
// enforces afterwards; with ErrNewer and ErrRefused, too. Any other error means that the pod did not answer.
func (c *Client) PushAccess(ctx context.Context, registry types.NamespacedName, ip string, document []byte) (wire.AccessState, error) {
	var state wire.AccessState
	status, err := c.do(ctx, registry, ip, http.MethodPut, wire.PathAccess, document, &state)
	switch {
	case err != nil:
		return state, err
	case status == http.StatusOK:
		return state, nil
	case status == http.StatusConflict:
		return state, ErrNewer
	case status == http.StatusUnprocessableEntity:
		return state, ErrRefused
	}
	return state, fmt.Errorf("sending the access snapshot to the pod at %s: it answered %d", ip, status)
}

// Purge asks the pod with an IP address how far the deletion of everything is; with begin, it begins it or goes on with
// it.
func (c *Client) Purge(ctx context.Context, registry types.NamespacedName, ip string, begin bool) (wire.PurgeState, error) {
	var state wire.PurgeState
	method := http.MethodGet
	if begin {
		method = http.MethodPost
	}
	status, err := c.do(ctx, registry, ip, method, wire.PathPurge, nil, &state)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("asking the pod at %s for the deletion of everything: it answered %d", ip, status)
	}
	return state, err
}

// Forget closes the idle connections to the pods of a registry that is gone.
func (c *Client) Forget(registry types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.transports[registry]; t != nil {
		t.CloseIdleConnections()
		delete(c.transports, registry)
	}
}

// do makes one request and reads its JSON answer into out. The answer of a status that the caller does not expect may
// have any form, so only those with a document are read.
func (c *Client) do(ctx context.Context, registry types.NamespacedName, ip, method, path string, body []byte, out any) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := newRequest(ctx, ip, method, path, body)
	if err != nil {
		return 0, err
	}
	status, _, err := c.exchange(registry, request, out)
	return status, err
}

func newRequest(ctx context.Context, ip, method, path string, body []byte) (*http.Request, error) {
	url := "https://" + net.JoinHostPort(ip, AdminPort) + path
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("asking the pod at %s: %w", ip, err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}

// exchange makes a request whose context has a deadline, as do describes it, and returns the header of the answer, too.
func (c *Client) exchange(registry types.NamespacedName, request *http.Request, out any) (int, http.Header, error) {
	ctx, ip := request.Context(), request.URL.Hostname()
	t, err := c.transport(ctx, registry)
	if err != nil {
		return 0, nil, fmt.Errorf("preparing TLS for the pods of %s: %w", registry, err)
	}
	response, err := t.RoundTrip(request)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			c.distrust(t)
		}
		return 0, nil, fmt.Errorf("%s %s of the pod at %s: %w", request.Method, request.URL.Path, ip, err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes+1))
	if err == nil {
		err = ctx.Err() // An answer that ends with the deadline can look complete.
	}
	if err != nil {
		return 0, nil, fmt.Errorf("reading the answer of the pod at %s: %w", ip, err)
	}
	if len(answer) > maxAnswerBytes {
		return 0, nil, fmt.Errorf("the answer of the pod at %s has more than %d bytes", ip, maxAnswerBytes)
	}
	switch response.StatusCode {
	case http.StatusOK, http.StatusConflict, http.StatusUnprocessableEntity:
		if err := json.Unmarshal(answer, out); err != nil {
			return 0, nil, fmt.Errorf("the answer of the pod at %s is not the document expected: %w", ip, err)
		}
	}
	return response.StatusCode, response.Header, nil
}

// transport returns the connections to a registry's pods; new ones when the certificates have changed.
func (c *Client) transport(ctx context.Context, registry types.NamespacedName) (*transport, error) {
	c.mu.Lock()
	t := c.transports[registry]
	trusted := t != nil && time.Since(t.asked) < trustFor
	c.mu.Unlock()
	if trusted {
		return t, nil
	}
	config, err := c.clientTLS(ctx, wire.AdminServerName(registry.Namespace, registry.Name))
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// Another goroutine may have been here in the meantime.
	if t = c.transports[registry]; t != nil {
		if sameTLS(t.TLSClientConfig, config) {
			t.asked = time.Now()
			return t, nil
		}
		t.CloseIdleConnections()
	}
	config = config.Clone()
	config.MinVersion = tls.VersionTLS13
	config.ServerName = wire.AdminServerName(registry.Namespace, registry.Name)
	t = &transport{asked: time.Now(), Transport: &http.Transport{
		Proxy:           nil, // A proxy named in the environment must not see admin requests.
		DialContext:     c.dial,
		TLSClientConfig: config,
		// One is for the request that waits for another inventory, one for all else.
		MaxIdleConnsPerHost:    2,
		TLSHandshakeTimeout:    timeout,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: 16 << 10,
		DisableCompression:     true,
	}}
	c.transports[registry] = t
	return t, nil
}

func (c *Client) distrust(t *transport) {
	c.mu.Lock()
	t.asked = time.Time{}
	c.mu.Unlock()
}

// sameTLS reports whether two configurations present the same certificate and trust the same authorities.
func sameTLS(a, b *tls.Config) bool {
	return a.RootCAs.Equal(b.RootCAs) && slices.EqualFunc(a.Certificates, b.Certificates, func(a, b tls.Certificate) bool {
		return slices.EqualFunc(a.Certificate, b.Certificate, bytes.Equal)
	})
}
