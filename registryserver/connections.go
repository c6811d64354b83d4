package registryserver

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/limits"
)

// connections bounds those that are open, and with them the memory that strangers can take. One more than there may be
// ends the one that has waited longest for a request, which clients survive; where all of them are busy, the new one
// is closed. So it is for all of them, and for those of each client's address.
type connections struct {
	most, perClient int
	// proxies have many clients behind them, and are bounded by most alone.
	proxies proxies

	mu sync.Mutex
	// order has each *connection, the one that has waited longest first among those that wait; open has their places.
	order list.List
	open  map[net.Conn]*list.Element
	// clients has how many each address has open.
	clients map[string]int
	// newest is when the last one was opened.
	newest time.Time
}

type connection struct {
	net.Conn
	client string
	waits  bool
}

func newConnections(most, perClient int, p proxies) *connections {
	return &connections{most: most, perClient: perClient, proxies: p, open: map[net.Conn]*list.Element{}, clients: map[string]int{}}
}

// changed is made for http.Server.ConnState, which calls it for a new connection before that is served.
func (c *connections) changed(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	place := c.open[conn]
	switch state {
	case http.StateClosed, http.StateHijacked:
		if place != nil {
			c.forget(place)
		}
		return
	case http.StateActive, http.StateNew, http.StateIdle:
	}
	if place == nil {
		client := limits.Address(conn.RemoteAddr().String())
		place = c.order.PushBack(&connection{Conn: conn, client: client})
		c.open[conn] = place
		c.clients[client]++
		c.newest = time.Now()
	}
	own := place.Value.(*connection) //nolint:forcetypeassert // Nothing else is in the list.
	own.waits = state != http.StateActive
	if own.waits {
		c.order.MoveToBack(place)
		if c.clients[own.client] > c.perClient && !c.proxies.hasRemote(conn.RemoteAddr().String()) {
			c.endLongest(own.client)
		}
		if len(c.open) > c.most {
			c.endLongest("")
		}
	}
}

// lastOpened is when the newest connection was opened.
func (c *connections) lastOpened() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.newest
}

// endLongest ends the connection that has waited longest, of a client or, where that is empty, of all.
func (c *connections) endLongest(client string) {
	for place := c.order.Front(); place != nil; place = place.Next() {
		conn, _ := place.Value.(*connection)
		if !conn.waits || client != "" && conn.client != client {
			continue
		}
		c.forget(place)
		closed := conn.Conn
		// Without the goodbye of TLS, for which the other end may make us wait.
		if t, ok := closed.(*tls.Conn); ok {
			closed = t.NetConn()
		}
		// All that can go wrong is that it is closed already.
		_ = closed.Close()
		return
	}
}

func (c *connections) forget(place *list.Element) {
	conn, _ := c.order.Remove(place).(*connection)
	delete(c.open, conn.Conn)
	if c.clients[conn.client]--; c.clients[conn.client] == 0 {
		delete(c.clients, conn.client)
	}
}
