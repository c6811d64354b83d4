package egress

// Refuse is what the dialer asks.
func (o Options) Refuse(network, address string) error { return o.refuse(network, address) }
