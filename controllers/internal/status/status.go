// Package status builds condition lists that tools judging by kstatus understand: Ready is always there, Reconciling
// and Stalled only when they are True and never both, every condition names the generation that it is about, and
// nothing changes when nothing happened.
package status

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// maxMessage bounds a condition's message; the API server refuses more than 32 KiB.
const maxMessage = 4 << 10

// maxNote bounds an event's note; the API server refuses more than 1 KiB.
const maxNote = 1000

// Finding is what a condition says.
type Finding struct {
	// Status is True, False or Unknown.
	Status metav1.ConditionStatus
	// Reason is one word in CamelCase, Message a sentence for people.
	Reason, Message string
}

// Is returns a finding that holds.
func Is(reason, message string) Finding { return Finding{metav1.ConditionTrue, reason, message} }

// IsNot returns a finding that does not hold.
func IsNot(reason, message string) Finding { return Finding{metav1.ConditionFalse, reason, message} }

// Unknown returns a finding that nothing is known of yet.
func Unknown(reason, message string) Finding {
	return Finding{metav1.ConditionUnknown, reason, message}
}

// True says whether the finding holds.
func (f Finding) True() bool { return f.Status == metav1.ConditionTrue }

// Part is one condition of an object beside Ready, Reconciling and Stalled.
type Part struct {
	Type string
	Finding
}

// Summary is what the three conditions say that every object has.
type Summary struct {
	// Ready sums the object up.
	Ready Finding
	// Stalled says that nothing will happen until somebody changes something. Where it is false and Ready does not hold,
	// the object is Reconciling.
	Stalled bool
}

// Conditions returns the new conditions of an object: Ready first, so that a column of reasons that are not True begins
// with it. Times of transition are taken over from the old list where the status is the same.
func Conditions(old []metav1.Condition, generation int64, summary Summary, parts []Part) []metav1.Condition {
	all := []Part{{v1alpha1.ConditionReady, summary.Ready}}
	if !summary.Ready.True() {
		kind, reason := v1alpha1.ConditionReconciling, "Progressing"
		if summary.Stalled {
			kind, reason = v1alpha1.ConditionStalled, summary.Ready.Reason
		}
		all = append(all, Part{kind, Is(reason, summary.Ready.Message)})
	}
	var out []metav1.Condition
	for _, part := range append(all, parts...) {
		condition := metav1.Condition{
			Type: part.Type, Status: part.Status, Reason: part.Reason, Message: Sentence(Shorten(part.Message, maxMessage)), ObservedGeneration: generation,
		}
		one := []metav1.Condition{}
		if before := meta.FindStatusCondition(old, part.Type); before != nil {
			one = append(one, *before)
		}
		meta.SetStatusCondition(&one, condition)
		out = append(out, one...)
	}
	return out
}

// Sentence makes a sentence of what a phase said: findings come from errors too, which begin small and end open. A first
// word that is the name of something, such as ca.crt or spec.podTemplate, is written as it is.
func Sentence(message string) string {
	first, size := utf8.DecodeRuneInString(message)
	if size == 0 {
		return message
	}
	if word, _, _ := strings.Cut(message, " "); !strings.ContainsAny(strings.TrimRight(word, ".,:;!?"), "._-/[") {
		message = string(unicode.ToUpper(first)) + message[size:]
	}
	if !strings.ContainsAny(message[len(message)-1:], ".!?") && !strings.HasSuffix(message, "…") {
		message += "."
	}
	return message
}

// Changed returns those conditions of the kinds, in their order, whose status or reason is another than before.
func Changed(before, after []metav1.Condition, kinds ...string) []metav1.Condition {
	var out []metav1.Condition
	for _, kind := range kinds {
		was, is := meta.FindStatusCondition(before, kind), meta.FindStatusCondition(after, kind)
		if is != nil && (was == nil || was.Status != is.Status || was.Reason != is.Reason) {
			out = append(out, *is)
		}
	}
	return out
}

// Note makes the note of an event of what a phase said.
func Note(message string) string { return Sentence(Shorten(message, maxNote)) }

// Shorten cuts a message that has more bytes than most, and shows that it did.
func Shorten(message string, most int) string {
	if len(message) <= most {
		return message
	}
	return strings.ToValidUTF8(message[:most], "") + "…"
}
