package oidc

// RefreshAndWait does what Run does at each of its intervals, and waits for what comes of it.
func (k *Keys) RefreshAndWait() {
	k.refresh()
	k.running.Wait()
}
