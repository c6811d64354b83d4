package registryserver

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// connections bounds those that are open, and with them the memory that strangers can take. One more than there may be
// ends the one that has waited longest for a request, which clients survive; where all of them are busy, the new one
// is closed.
type connections struct {
	most int

	mu sync.Mutex
	// waiting are the connections without a request, the longest first; open has all, with their place in waiting.
	waiting list.List
	open    map[net.Conn]*list.Element
}

// changed is made for http.Server.ConnState, which calls it for a new connection before that is served.
func (c *connections) changed(connection net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if place := c.open[connection]; place != nil {
		c.waiting.Remove(place)
	}
	switch state {
	case http.StateClosed, http.StateHijacked:
		delete(c.open, connection)
	case http.StateActive:
		c.open[connection] = nil
	case http.StateNew, http.StateIdle:
		c.open[connection] = c.waiting.PushBack(connection)
		if len(c.open) > c.most {
			c.end(c.waiting.Front())
		}
	}
}

func (c *connections) end(place *list.Element) {
	connection, _ := c.waiting.Remove(place).(net.Conn)
	delete(c.open, connection)
	// Without the goodbye of TLS, for which the other end may make us wait.
	if t, ok := connection.(*tls.Conn); ok {
		connection = t.NetConn()
	}
	// All that can go wrong is that it is closed already.
	_ = connection.Close()
}
