package registryserver

import (
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/web"
)

// pages serves people.
func (s *Server) pages(store *repository.Store, admission *admission) *web.Handler {
	c := s.config
	return web.New(web.Options{
		Store: store, Inventory: s.Inventory(), Access: s.enforcer,
		Organization: c.Organization, Registry: c.Registry, ExternalURL: s.external,
		About:  newAbout(c, s.log).get,
		Logger: s.log, Observe: observe,
		Admit:       admission.admitPage,
		AllowSignIn: admission.allowExchange,
		Downloaded:  s.inventory.downloads.Downloaded,
	})
}
