package mailer

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// maxFilename is what file systems take, in octets.
	maxFilename = 255
	// maxExtension is the longest extension that survives the cut to it.
	maxExtension = 16
)

// Attachment is a file that goes with a message.
type Attachment struct {
	// Filename is shown to the recipient. Path parts and bidirectional controls
	// are removed, and names over 255 octets cut. Empty means a name made from
	// the content type.
	Filename string
	// ContentType is a media type with parameters (RFC 2045, section 5.1).
	// Empty means the one that goes with the extension of Filename.
	ContentType string
	// ContentID is what cid: URLs in the HTML refer to (RFC 2392), with or
	// without angle brackets.
	ContentID string
	// Inline marks what is shown within the message and not offered as a file.
	Inline bool
	// Source is read once per writing of the message, and never kept in memory
	// as a whole.
	Source Source
}

// attachment is an Attachment that was checked, in the form it is written in.
type attachment struct {
	field       string // its name in errors
	filename    string
	contentType string
	params      map[string]string
	contentID   string // without angle brackets
	inline      bool
	raw         bool // written as it is, not in base64
	source      Source
	octets      int64 // the size of source when the message was composed
}

// check makes the attachment called field in errors ready to be written.
func (a Attachment) check(field string) (*attachment, error) {
	if a.Source == nil || a.Source.Size() < 0 {
		return nil, invalidf(field+".content", "missing_content", "attachment has no content")
	}
	c := &attachment{field: field, inline: a.Inline, source: a.Source, octets: a.Source.Size()}

	if code, fault := textFault(a.Filename); fault != "" {
		return nil, invalidf(field+".filename", code, "file name %s", fault)
	}
	c.filename = cleanFilename(a.Filename)

	c.contentType = typesByExtension[asciiLower(extension(c.filename))]
	if a.ContentType != "" {
		var err error
		if c.contentType, c.params, err = parseContentType(a.ContentType, field+".content_type"); err != nil {
			return nil, err
		}
	}
	if c.contentType == "" {
		c.contentType = octetStream
	}
	if err := c.settleComposite(); err != nil {
		return nil, err
	}
	if c.filename == "" {
		c.filename = "attachment" + extensionOf(c.contentType)
	}

	id := a.ContentID
	if inner, ok := strings.CutPrefix(id, "<"); ok {
		id, ok = strings.CutSuffix(inner, ">")
		if !ok {
			id = ""
		}
	}
	if a.ContentID != "" && !isContentID(id) {
		code, fault := textFault(a.ContentID)
		if code != codeLineBreak {
			code, fault = "bad_content_id", "is not valid"
		}
		return nil, invalidf(field+".content_id", code, "content id %s %s", excerpt(a.ContentID), fault)
	}
	c.contentID = id
	return c, nil
}

// settleComposite decides about the types whose parts must not be encoded (RFC
// 2045, section 6.4; RFC 2046, section 5.2). A message goes as it is, if it can;
// everything else becomes a plain file, which every program can save and open.
func (a *attachment) settleComposite() error {
	major, _, _ := strings.Cut(a.contentType, "/")
	if major != "message" && major != "multipart" {
		return nil
	}
	if a.contentType == "message/rfc822" {
		clean, err := isCanonical(a.source)
		if err != nil {
			return &Error{Stage: StageAccept, Kind: KindTemporary, Field: a.field, Code: codeUnreadable, Err: fmt.Errorf("reading attachment: %w", err)}
		}
		if clean {
			a.raw = true
			return nil
		}
	}
	a.contentType, a.params = octetStream, nil
	return nil
}

// cleanFilename removes what makes a name misleading or dangerous to save.
// Control characters were refused before.
func cleanFilename(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case isBidiControl(r):
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(s[strings.LastIndexAny(s, `/\`)+1:])
	if strings.Trim(s, ". ") == "" {
		return ""
	}
	if len(s) <= maxFilename {
		return s
	}
	ext := extension(s)
	if len(ext) > maxExtension {
		ext = ""
	}
	n := maxFilename - len(ext)
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + ext
}

// extension returns what follows the last dot of a file name, with the dot.
func extension(s string) string {
	if i := strings.LastIndexByte(s, '.'); i >= 0 {
		return s[i:]
	}
	return ""
}

// isBidiControl reports whether r has the property Bidi_Control, with which
// "exe.fdp" can be made to look like "pdf.exe".
func isBidiControl(r rune) bool {
	return r == 0x061c || r == 0x200e || r == 0x200f || 0x202a <= r && r <= 0x202e || 0x2066 <= r && r <= 0x2069
}

func isContentID(s string) bool {
	if s == "" || len(s) > maxMessageID || strings.Count(s, "@") > 1 {
		return false
	}
	for i := range len(s) {
		if s[i] != '@' && s[i] != '.' && !isAtext(s[i]) {
			return false
		}
	}
	return true
}

// header appends the header fields of the attachment's part, without the empty
// line after them.
func (a *attachment) header(b []byte) ([]byte, error) {
	f := startField(b, "Content-Type")
	f.word(a.contentType + ";")
	for _, k := range slices.Sorted(maps.Keys(a.params)) {
		f.word(k + "=" + quoteString(a.params[k]) + ";")
	}
	// Programs that know no Content-Disposition look here.
	f.nameParam("name", a.filename)
	b, ok := f.end()
	if !ok {
		return nil, invalidf(a.field+".content_type", codeTooLong, "content type is too long")
	}

	encoding := "base64"
	if a.raw {
		encoding = "7bit"
	}
	b = append(b, "Content-Transfer-Encoding: "+encoding+"\r\n"...)
	if a.contentID != "" {
		b = append(b, "Content-ID: <"+a.contentID+">\r\n"...)
	}
	disposition := "attachment;"
	if a.inline {
		disposition = "inline;"
	}
	f = startField(b, "Content-Disposition")
	f.word(disposition)
	f.nameParam("filename", a.filename)
	b, _ = f.end() // no name of 255 octets makes a line too long
	return b, nil
}

// nameParam appends a parameter that holds a file name: quoted if it is ASCII,
// otherwise by RFC 2231, in sections where it is long. Sections end between
// characters, although they need not: some programs decode each on its own. The
// encoded words within quotes that others send are forbidden by RFC 2047, and
// strict readers complain of them.
func (f *field) nameParam(param, name string) {
	if !needsEncoding(name) {
		f.word(param + "=" + quoteString(name))
		return
	}
	const charset = "UTF-8''"
	sectionFrame := len(param) + len("*99*=;")
	var sections []string
	b := []byte(charset)
	for _, r := range name {
		char := appendPercent(nil, string(r))
		if sectionFrame+len(b)+len(char) >= foldAt {
			sections = append(sections, string(b))
			b = b[:0]
		}
		b = append(b, char...)
	}
	sections = append(sections, string(b))
	if len(sections) == 1 {
		f.word(param + "*=" + sections[0])
		return
	}
	for i, s := range sections {
		if i < len(sections)-1 {
			s += ";"
		}
		f.word(fmt.Sprintf("%s*%d*=%s", param, i, s))
	}
}

// appendPercent appends s in the encoding of RFC 2231, section 7.
func appendPercent(dst []byte, s string) []byte {
	for _, c := range []byte(s) {
		if isAlnum(c) || strings.IndexByte("!#$&+-.^_`|~", c) >= 0 {
			dst = append(dst, c)
			continue
		}
		dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
	}
	return dst
}
