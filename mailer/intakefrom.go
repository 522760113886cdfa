package mailer

import (
	"errors"
	"io"
	"mime"
	"net/mail"
	"slices"
	"strings"

	"golang.org/x/text/encoding/htmlindex"
)

// settleFrom sees to it that there is one From field with one address, and
// returns that.
func (in *Intake) settleFrom(h *header) (Address, error) {
	for _, a := range []Address{in.From, in.DefaultFrom} {
		if code, fault := a.fault(); fault != "" && a != (Address{}) {
			e := invalidf("from", code, "the address %s to be put into the From field %s: correct the configuration", excerpt(a.Mailbox()), fault)
			e.Kind = KindConfig
			return Address{}, e
		}
	}
	h.fields = slices.DeleteFunc(h.fields, func(f rawField) bool { return f.name == "from" && f.value() == "" })
	var values []string
	for _, f := range h.fields {
		if f.name == "from" {
			values = append(values, f.value())
		}
	}
	switch {
	case len(values) == 0:
		return in.missingFrom(h)
	case !in.From.IsZero():
		return in.replaceFrom(h, values), nil
	case len(values) > 1:
		return Address{}, invalidf("from", codeBadHeader, "message has %d From fields: it must have one", len(values))
	}
	a, err := ParseAddress(values[0])
	if err != nil {
		if e := (*Error)(nil); errors.As(err, &e) {
			e.Field = "from"
		}
		return Address{}, err
	}
	if showsOther(a) {
		return Address{}, invalidf("from", codeMisleading, "name %s shows another address than %s", excerpt(a.Name), excerpt(a.Mailbox()))
	}
	h.keepFrom(a, values[0])
	return a, nil
}

func (in *Intake) missingFrom(h *header) (Address, error) {
	a := in.From
	if a.IsZero() {
		a = in.DefaultFrom
	}
	if a.IsZero() {
		return Address{}, invalidf("from", codeMissingFrom, "message has no From field")
	}
	h.mended.note("From was missing")
	h.set(addressField("From", a))
	return a, nil
}

// replaceFrom puts in.From in the place of what is there.
func (in *Intake) replaceFrom(h *header, values []string) Address {
	a := in.From
	var others []Address
	for _, v := range values {
		list, err := ParseAddressList(v)
		if err != nil {
			continue // what cannot be read cannot be answered
		}
		others = append(others, list...)
	}
	if len(values) == 1 && len(others) == 1 {
		if name := others[0].Name; name != "" && !showsOther(Address{name, a.Local, a.Domain}) {
			a.Name = name
		}
		if others[0] == a {
			h.keepFrom(a, values[0])
			return a
		}
	}
	h.mended.note("From was replaced")
	h.set(addressField("From", a))
	h.remove("sender") // who sends is the one in From now
	others = slices.DeleteFunc(others, a.Equal)
	if _, ok := h.get("reply-to"); !ok && len(others) > 0 {
		h.set(addressField("Reply-To", others...))
	}
	return a
}

// keepFrom leaves a From field with the address a alone, if other readers find
// that address, too.
func (h *header) keepFrom(a Address, value string) {
	if isPlainFrom(a, value) {
		return
	}
	if strict, err := strictParser.Parse(value); err == nil {
		if seen, err := ParseAddress("<" + strict.Address + ">"); err == nil && seen.Equal(a) {
			return
		}
	}
	h.mended.note("From was not in the form of RFC 5322")
	h.set(addressField("From", a))
}

// isPlainFrom reports whether a value has the address a in a form that nobody can
// misread, as most have.
func isPlainFrom(a Address, value string) bool {
	spec := value
	if inner, ok := strings.CutSuffix(value, ">"); ok {
		name, rest, _ := strings.Cut(inner, "<")
		if !isMadeOf(name, " ") {
			return false
		}
		spec = rest
	}
	local, domain, ok := strings.Cut(spec, "@")
	return ok && local == a.Local && domain == a.Domain && isDotAtom(local) && isMadeOf(local, ".-_") && isDotAtom(domain) && isMadeOf(domain, ".-")
}

// isMadeOf reports whether there is nothing in s but letters and digits of ASCII, and
// those characters.
func isMadeOf(s, others string) bool {
	for i := range len(s) {
		if !isAlnum(s[i]) && strings.IndexByte(others, s[i]) < 0 {
			return false
		}
	}
	return true
}

// strictParser stands for the readers that know nothing of our leniency.
var strictParser = mail.AddressParser{WordDecoder: &mime.WordDecoder{
	CharsetReader: func(_ string, r io.Reader) (io.Reader, error) { return r, nil },
}}

// showsOther is misleading for a name that others wrote: it looks into encoded
// words in the charsets that mail programs know, too, and trusts no others.
func showsOther(a Address) bool {
	name, err := nameDecoder.DecodeHeader(a.Name)
	a.Name = name
	return err != nil || misleading(a)
}

var nameDecoder = mime.WordDecoder{CharsetReader: func(charset string, r io.Reader) (io.Reader, error) {
	e, err := htmlindex.Get(charset)
	if err != nil {
		return nil, err
	}
	return e.NewDecoder().Reader(r), nil
}}
