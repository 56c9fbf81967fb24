select l.kind, l.letters, l.oldest_seconds from "pgqueue".letter_load l
