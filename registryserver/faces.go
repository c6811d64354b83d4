package registryserver

import (
	"net/http"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/face"
	"github.com/chartroom-dev/chartroom/registryserver/helmrepo"
	"github.com/chartroom-dev/chartroom/registryserver/publish"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/restapi"
)

// part is a handler of some of the addresses.
type part interface {
	http.Handler
	// Serves reports whether the address with that path is one of them.
	Serves(path string) bool
}

// faces are the ways to the charts beside OCI: as a classic Helm repository, and as packages over REST.
func (s *Server) faces(store *repository.Store, a *admission) []part {
	publisher := publish.New(store)
	door := func(command string) *face.Door {
		return &face.Door{Access: s.enforcer, Registry: s.config.owner(), Command: command, Admit: a.admit, Failed: s.requestFailed, Logger: s.log}
	}
	address := strings.TrimRight(s.external.String(), "/")
	return []part{
		helmrepo.New(helmrepo.Options{
			Store: store, Inventory: s.inventory, Publisher: publisher, Observe: observe,
			Door:       door("`helm repo add NAME " + address + helmrepo.Path(s.config.owner()) + " --username … --password-stdin` (curl has `--user …`)"),
			Pulled:     s.retention.pulled(),
			Downloaded: s.inventory.downloads.Downloaded,
		}),
		restapi.New(restapi.Options{
			Store: store, Inventory: s.inventory, Publisher: publisher, Observe: observe,
			Door:         door("`curl --user …`"),
			Organization: s.config.Organization, Registry: s.config.Registry, ExternalURL: address,
		}),
	}
}
