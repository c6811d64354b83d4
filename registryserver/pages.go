package registryserver

import (
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/web"
)

// pages serves people.
func (s *Server) pages(store *repository.Store, admission *admission) *web.Handler {
	c := s.config
	o := web.Options{
		Store: store, Inventory: s.Inventory(), Access: s.enforcer,
		Organization: c.Organization, Registry: c.Registry, ExternalURL: s.external,
		About:    newAbout(c, s.log).get,
		Settings: newSettings(c, s.log), History: s.history,
		Logger: s.log, Observe: observe,
		Admit:       admission.admitPage,
		AllowSignIn: admission.allowExchange,
		Pulled:      s.retention.pulled(),
		Downloaded:  s.inventory.downloads.Downloaded,
		Failed:      s.requestFailed,
	}
	if s.notifier != nil {
		o.Notifier = s.notifier
	}
	return web.New(o)
}
