package desired

import (
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
)

// folderNotifications is where the pod finds what it proves to receivers of events, and they to it: a folder for each.
const folderNotifications = "/etc/chartroom/notifications"

// Files of one receiver.
const (
	fileSecret = "secret"
	fileToken  = "token"
)

// EntryNotificationSecret is the entry of a receiver's Secret where no other is written.
const EntryNotificationSecret = "token"

// tokenLifetime is that of tokens for receivers in seconds, where no other is written.
const tokenLifetime int64 = 3600

// Receivers are spec.notifications as the server takes them.
func Receivers(r *v1alpha1.HelmRegistry) []receivers.Receiver {
	var out []receivers.Receiver
	for _, n := range r.Spec.Notifications {
		file := func(name string) string { return folderNotifications + "/" + n.Name + "/" + name }
		to := receivers.Receiver{
			Name: n.Name, URL: n.URL, Format: receivers.Format(n.Format), HeaderPrefix: n.HeaderPrefix, Disabled: n.Disabled,
		}
		for _, e := range n.Events {
			to.Events = append(to.Events, receivers.Event(e))
		}
		if f := n.Filter; f != nil {
			to.Filter = receivers.Filter{Charts: f.Charts, Prereleases: string(f.Prereleases)}
		}
		if a := n.Auth; a != nil {
			switch {
			case a.Header != nil:
				to.Auth.Header = &receivers.Header{Name: a.Header.Name, SecretFile: file(fileSecret)}
			case a.HMAC != nil:
				to.Auth.HMAC = &receivers.HMAC{Dialect: receivers.Dialect(a.HMAC.Dialect), SecretFile: file(fileSecret)}
			case a.ServiceAccountToken != nil:
				to.Auth.ServiceAccountToken = &receivers.Token{File: file(fileToken)}
			}
		}
		if t := n.TLS; t != nil {
			to.TLS.InsecureSkipVerify = t.InsecureSkipVerify
			if t.CASecretRef != nil {
				to.TLS.CAFile = file(EntryAuthorities)
			}
		}
		out = append(out, to)
	}
	return out
}

// maxArgumentBytes is the most that Linux takes as one argument of a program, without the zero at its end.
const maxArgumentBytes = 128<<10 - 1

// CheckNotifications says what is wrong with spec.notifications that the rules of the CRD cannot judge, beginning with where
// in it that is: with such receivers no pod would start.
func CheckNotifications(r *v1alpha1.HelmRegistry) error {
	if problems := receivers.Validate(Receivers(r)); problems != nil {
		return problems[0]
	}
	for _, a := range notificationArguments(r) {
		if len(a) > maxArgumentBytes {
			return fmt.Errorf(": the receivers take %d bytes together, and %d fit: write fewer of them, or shorter addresses and fewer globs", len(a), maxArgumentBytes)
		}
	}
	return nil
}

// NotificationSecret is the Secret, and the entry of it, that a receiver is sent or that signs what it is sent; false
// where there is none.
func NotificationSecret(n v1alpha1.Notification) (name, entry string, found bool) {
	var ref v1alpha1.SecretEntryReference
	switch a := n.Auth; {
	case a != nil && a.Header != nil:
		ref = a.Header.SecretRef
	case a != nil && a.HMAC != nil:
		ref = a.HMAC.SecretRef
	default:
		return "", "", false
	}
	if ref.Key == "" {
		ref.Key = EntryNotificationSecret
	}
	return ref.Name, ref.Key, true
}

// notificationArguments tell the server whom to tell of events.
func notificationArguments(r *v1alpha1.HelmRegistry) []string {
	all := Receivers(r)
	if len(all) == 0 {
		return nil
	}
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // So that people can read the addresses.
	if err := encoder.Encode(all); err != nil {
		panic(err) // Strings and booleans always encode.
	}
	return []string{"--notifications=" + strings.TrimSpace(text.String())}
}

// notificationVolume holds what the server needs to talk to receivers; nil where that is nothing. What is missing of it keeps
// no pod from starting: charts are served all the same, and the server says what it misses.
func notificationVolume(r *v1alpha1.HelmRegistry) *corev1.Volume {
	var sources []corev1.VolumeProjection
	add := func(secret, entry, path string) {
		sources = append(sources, corev1.VolumeProjection{Secret: &corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Optional: ptr(true),
			Items: []corev1.KeyToPath{{Key: entry, Path: path}},
		}})
	}
	for _, n := range r.Spec.Notifications {
		if name, entry, found := NotificationSecret(n); found {
			add(name, entry, n.Name+"/"+fileSecret)
		}
		if n.TLS != nil && n.TLS.CASecretRef != nil {
			add(n.TLS.CASecretRef.Name, EntryAuthorities, n.Name+"/"+EntryAuthorities)
		}
		if n.Auth != nil && n.Auth.ServiceAccountToken != nil {
			token, lifetime := n.Auth.ServiceAccountToken, ptr(tokenLifetime)
			if token.ExpirationSeconds != nil {
				lifetime = token.ExpirationSeconds
			}
			sources = append(sources, corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Audience: token.Audience, ExpirationSeconds: lifetime, Path: n.Name + "/" + fileToken,
			}})
		}
	}
	if sources == nil {
		return nil
	}
	return &corev1.Volume{Name: "notifications", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: ptr(int32(0o440)), Sources: sources,
	}}}
}
