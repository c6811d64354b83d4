package oidc

// RefuseAddress is what the dialer asks.
var RefuseAddress = refuseAddress

// RefreshAndWait does what Run does at each of its intervals, and waits for what comes of it.
func (k *Keys) RefreshAndWait() {
	k.refresh()
	k.running.Wait()
}
