package registryserver

import (
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// newSettings returns what says how the registry is set up, for people: as the operator last told, or, where none did, the
// server's own configuration, with its defaults.
func newSettings(c Config, log *slog.Logger) func() wire.Settings {
	t := &told[wire.Settings]{
		file: filepath.Join(filepath.Dir(c.Access.File), wire.SettingsFile), decode: wire.DecodeSettings,
		problem: "what the operator says of the registry's object was not taken", log: log,
	}
	own, err := c.shown()
	if err != nil {
		log.Warn("the configuration cannot be shown on the pages", "error", err)
	}
	return func() wire.Settings {
		if s := t.get(); s.Name != "" {
			return s
		}
		return wire.Settings{Spec: own}
	}
}

// shown is the configuration in YAML, without what is empty or off. All secrets are in files of which it has the names, except for
// addresses of receivers: what is behind their hosts may be known to few.
func (c Config) shown() (string, error) {
	content, err := yaml.Marshal(c)
	var fields map[string]any
	if err == nil {
		err = yaml.Unmarshal(content, &fields)
	}
	if err != nil {
		return "", fmt.Errorf("writing the configuration: %w", err)
	}
	if all, ok := fields["notifications"].([]any); ok {
		for i := range all {
			all[i].(map[string]any)["url"] = hostOf(c.Notifications[i].URL)
		}
	}
	content, err = yaml.Marshal(withoutEmpty(fields))
	return string(content), err
}

// hostOf is an address up to its host.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "(not shown)"
	}
	return u.Scheme + "://" + u.Host + "/…"
}

// withoutEmpty returns a value without its members that are empty, or zero, as what is off is; nil if nothing is left.
func withoutEmpty(value any) any {
	switch of := value.(type) {
	case map[string]any:
		for name, member := range of {
			if of[name] = withoutEmpty(member); of[name] == nil {
				delete(of, name)
			}
		}
		if len(of) == 0 {
			return nil
		}
	case []any:
		for i := range of {
			of[i] = withoutEmpty(of[i])
		}
		if len(of) == 0 {
			return nil
		}
	case nil, string, bool, int:
		if value == "" || value == "0s" || value == false || value == 0 {
			return nil
		}
	}
	return value
}
