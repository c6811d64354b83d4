package policy

import (
	"strconv"
	"strings"
)

// canonicalNumber writes a number of JSON (RFC 8259 section 6) so that equal ones have equal strings, as in "-125e-2":
// no number is ever worked out, whose exponent could ask for any amount of memory. ok is false for exponents of more than
// nine characters, and for what is no number.
func canonicalNumber(s string) (canonical string, ok bool) {
	mantissa, exponentText, hasExponent := strings.Cut(strings.ToLower(s), "e")
	exponent := 0
	if hasExponent {
		var err error
		if exponent, err = strconv.Atoi(exponentText); err != nil || len(exponentText) > 9 {
			return "", false
		}
	}
	mantissa, negative := strings.CutPrefix(mantissa, "-")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := whole + fraction
	if whole == "" || strings.Trim(digits, "0123456789") != "" {
		return "", false
	}
	exponent -= len(fraction)
	trimmed := strings.TrimRight(digits, "0")
	exponent += len(digits) - len(trimmed)
	trimmed = strings.TrimLeft(trimmed, "0")
	if trimmed == "" {
		return "0", true
	}
	if negative {
		trimmed = "-" + trimmed
	}
	if exponent != 0 {
		trimmed += "e" + strconv.Itoa(exponent)
	}
	return trimmed, true
}
