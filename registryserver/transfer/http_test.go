package transfer

import "testing"

func TestPrivateAddressesAreRefused(t *testing.T) {
	t.Parallel()
	for address, refused := range map[string]bool{
		"127.0.0.1:80": true, "10.1.2.3:443": true, "172.16.0.1:443": true, "192.168.1.1:443": true, "169.254.169.254:80": true,
		"0.0.0.0:80": true, "[::1]:80": true, "[fe80::1]:80": true, "[fd00::1]:80": true, "[::ffff:127.0.0.1]:80": true, "no address": true,
		"93.184.216.34:443": false, "[2606:4700::1111]:443": false,
	} {
		if err := refusePrivate("tcp", address, nil); (err != nil) != refused {
			t.Errorf("%s: %v", address, err)
		}
	}
}
